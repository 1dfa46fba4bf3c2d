/** Which of a run's artifacts the result page can show. */
import type { Artifact, RunArtifact } from "@/api/types";

export interface Shown {
  /** Where it came from, for people: the name of the output, with the step where that says more. */
  label: string;
  artifact: Artifact;
  /** The steps that made it: several where they came to the same bytes, none where that is not known. */
  steps: string[];
}

export interface ResultOutputs {
  predictions: Shown[];
  structures: Shown[];
  tables: Shown[];
  reports: Shown[];
  /** Folders of arrays of no more special a kind, for example the `folds` of `fold.predict`. */
  trees: Shown[];
}

/** Sorts artifacts by kind. The outputs of the run come first; the same bytes are listed once. */
export function findOutputs(items: readonly RunArtifact[]): ResultOutputs {
  const found: ResultOutputs = { predictions: [], structures: [], tables: [], reports: [], trees: [] };
  const places: Record<string, Shown[]> = {
    predictions: found.predictions,
    structures: found.structures,
    table: found.tables,
    report: found.reports,
    tree: found.trees,
  };
  const seen = new Set<string>();
  const makersOf = (digest: string) =>
    items.flatMap(({ artifact, step }) => (step && artifact.digest === digest ? [step] : []));
  const ordered = [...items].sort((left, right) => Number(right.run_output) - Number(left.run_output));
  for (const { artifact, output, run_output: isOutput, step } of ordered) {
    const list = places[artifact.type];
    if (!list || seen.has(artifact.digest)) continue;
    seen.add(artifact.digest);
    const label = isOutput || !step ? output : `${step}: ${output}`;
    list.push({ label, artifact, steps: makersOf(artifact.digest) });
  }
  return found;
}

/** The structures that belong to some predictions: those of the same step, or the only ones there are. */
export function structuresOf(predictions: Shown, structures: readonly Shown[]): Shown | null {
  const sameStep = structures.find(({ steps }) => steps.some((step) => predictions.steps.includes(step)));
  if (sameStep) return sameStep;
  const only = structures.length === 1 ? structures[0] : undefined;
  return only && (only.steps.length === 0 || predictions.steps.length === 0) ? only : null;
}
