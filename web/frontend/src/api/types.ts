/** The nouns of the API, under the names the pages use. Shapes come from the generated schema. */
import type { components } from "./schema.gen";

type Schemas = components["schemas"];

export type Artifact = Schemas["Artifact"];
export type ArtifactDetail = Schemas["ArtifactDetail"];
export type Attempt = Schemas["Attempt"];
export type Cluster = Schemas["Cluster"];
export type ClusterState = Schemas["ClusterHealth"];
export type CheckAnswer = Schemas["CheckAnswer"];
export type CheckedWorkflow = Schemas["CheckedWorkflow"];
export type Estimate = Schemas["Estimate"];
export type Fault = Schemas["Fault"];
export type GroupInfo = Schemas["ZarrGroup"];
export type LogLine = Schemas["LogLine"];
export type MetricPoint = Schemas["MetricPoint"];
export type OperatorInfo = Schemas["Operator"];
export type PlannedStep = Schemas["PlannedStep"];
export type Plan = Schemas["Plan"];
export type Port = Schemas["Port"];
export type Run = Schemas["Run"];
export type RunArtifact = Schemas["RunArtifact"];
export type RunState = Schemas["RunSummary"]["state"];
export type RunSummary = Schemas["RunSummary"];
export type StepDetail = Schemas["StepDetail"];
export type StepState = Schemas["StepSummary"]["state"];
export type StepSummary = Schemas["StepSummary"];
export type Weights = Schemas["Weights"];
export type Why = Schemas["Why"];
export type WorkflowDetail = Schemas["Workflow"];

/** A reference to stored bytes among plain values. */
export interface ArtifactValue {
  $artifact: Artifact;
}

/** Whether a plain JSON value stands for an artifact. */
export function isArtifactValue(value: unknown): value is ArtifactValue {
  return typeof value === "object" && value !== null && "$artifact" in value;
}

const FINISHED: ReadonlySet<string> = new Set(["succeeded", "failed", "cancelled", "skipped"]);

/** Whether a run or a step in this state will never change again. */
export function isFinished(state: RunState | StepState): boolean {
  return FINISHED.has(state);
}

/** Whether a row only gathers the items of a scattered step, and is no piece of work of its own. */
export function isGathering(step: Pick<StepSummary, "key" | "items">): boolean {
  return step.key === null && (step.items ?? 0) > 0;
}
