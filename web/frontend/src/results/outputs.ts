/** Which of a run's artifacts the result page can show. */
import type { Artifact, RunArtifact } from "@/api/types";

export interface Shown {
  /** Where it came from, for people: the name of the output, with the step where that says more. */
  label: string;
  artifact: Artifact;
}

export interface ResultOutputs {
  predictions: Shown[];
  structures: Shown[];
  tables: Shown[];
  reports: Shown[];
}

/** Sorts artifacts by kind. The outputs of the run come first; the same bytes are listed once. */
export function findOutputs(items: readonly RunArtifact[]): ResultOutputs {
  const found: ResultOutputs = { predictions: [], structures: [], tables: [], reports: [] };
  const places: Record<string, Shown[]> = {
    predictions: found.predictions,
    structures: found.structures,
    table: found.tables,
    report: found.reports,
  };
  const seen = new Set<string>();
  const ordered = [...items].sort((left, right) => Number(right.run_output) - Number(left.run_output));
  for (const { artifact, output, run_output: isOutput, step } of ordered) {
    const list = places[artifact.type];
    if (!list || seen.has(artifact.digest)) continue;
    seen.add(artifact.digest);
    list.push({ label: isOutput || !step ? output : `${step}: ${output}`, artifact });
  }
  return found;
}
