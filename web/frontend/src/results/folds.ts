/** Reads what `fold.predict` and `fold.rank` write beside predictions. What is missing or unknown is left out. */
import type { Shown } from "./outputs";

type Fields = Record<string, unknown>;

function fieldsOf(value: unknown): Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};
}

function listOf(value: unknown): Fields[] {
  return Array.isArray(value) ? value.map(fieldsOf) : [];
}

function textOf(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

function numberOf(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

export interface RecordFailure {
  record: string;
  message: string;
  hint: string | null;
}

export interface FoldStatus {
  total: number;
  failures: RecordFailure[];
  /** The targets of the step's own predictions, by where the structure lies in the step's folds. */
  targets: Map<string, string>;
  /** How many passes each structure took, by the same path. */
  recycles: Map<string, { passes: number; converged: boolean }>;
}

/** What became of each record, or null when the document is no status of `fold.predict`. */
export function readStatus(document: unknown): FoldStatus | null {
  const status = fieldsOf(document);
  if (status.kind !== "fold.status") return null;
  const records = listOf(status.records);
  const found: FoldStatus = { total: records.length, failures: [], targets: new Map(), recycles: new Map() };
  for (const record of records) {
    if (record.state === "failed") {
      const error = fieldsOf(record.error);
      found.failures.push({
        record: textOf(record.record) ?? "unnamed",
        message: textOf(error.message) ?? textOf(error.code) ?? "no reason is known",
        hint: textOf(error.hint),
      });
    }
    for (const row of listOf(record.structures)) {
      const [path, target, passes] = [textOf(row.path), textOf(row.target), numberOf(row.recycles)];
      if (path !== null && target !== null) found.targets.set(path, target);
      if (path !== null && passes !== null)
        found.recycles.set(path, { passes, converged: row.converged === true });
    }
  }
  return found;
}

export interface RankedModel {
  record: string;
  rank: number;
  name: string;
  /** Of the predictions beside the ranking; null where the structure was not handed on. */
  target: string | null;
  model: string;
  weights: string;
  seed: number;
  sample: number;
  confidence: number | null;
  plddt: number | null;
  ptm: number | null;
  iptm: number | null;
}

export interface Ranking {
  rule: string | null;
  models: RankedModel[];
}

/** The order of all structures, or null when the document is none of `fold.rank`. */
export function readRanking(document: unknown): Ranking | null {
  const ranking = fieldsOf(document);
  if (ranking.kind !== "fold.ranking") return null;
  const models = listOf(ranking.records).flatMap((record) =>
    listOf(record.models).map((model, index) => ({
      record: textOf(record.record) ?? "unnamed",
      rank: numberOf(model.rank) ?? index + 1,
      name: textOf(model.name) ?? "",
      target: textOf(model.target),
      model: textOf(model.model) ?? "",
      weights: textOf(model.weights) ?? "",
      seed: numberOf(model.seed) ?? 0,
      sample: numberOf(model.sample) ?? 0,
      confidence: numberOf(model.confidence),
      plddt: numberOf(model.plddt),
      ptm: numberOf(model.ptm),
      iptm: numberOf(model.iptm),
    })),
  );
  return models.length > 0 ? { rule: textOf(ranking.rule), models } : null;
}

/** One structure of a `folds` tree. */
export interface FoldEntry {
  digest: string;
  /** Of its group in the tree. */
  path: string;
  /** The name of the record in the tree, and for people. */
  record: string;
  title: string;
  model: string;
  weights: string | null;
  seed: number;
  sample: number;
}

/** The structures of a tree by its root attributes; none where it is no `folds` tree. */
export function readFolds(digest: string, attributes: unknown): FoldEntry[] {
  const root = fieldsOf(attributes);
  if (root.kind !== "folds") return [];
  return listOf(root.structures).flatMap((row) => {
    const [record, model] = [textOf(row.record), textOf(row.model)];
    const [seed, sample] = [numberOf(row.seed), numberOf(row.sample)];
    if (record === null || model === null || seed === null || sample === null) return [];
    const path = `models/${record}/${model}/${seed}/${sample}`;
    const title = textOf(row.title) ?? record;
    return [{ digest, path, record, title, model, weights: textOf(root.weights), seed, sample }];
  });
}

/** A document or a tree of a run, with what could be read from it. */
export interface Read<T> {
  shown: Shown;
  value: T;
}

/** Everything of a run that tells of folding. */
export interface FoldResults {
  statuses: Read<FoldStatus>[];
  rankings: Read<Ranking>[];
  folds: Read<FoldEntry[]>[];
}

export function sameMaker(left: Shown, right: Shown): boolean {
  return left.steps.some((step) => right.steps.includes(step));
}

function isOf(entry: FoldEntry, ranked: RankedModel): boolean {
  return (
    entry.title === ranked.record &&
    entry.model === ranked.model &&
    entry.seed === ranked.seed &&
    entry.sample === ranked.sample &&
    (entry.weights === null || ranked.weights === "" || entry.weights === ranked.weights)
  );
}

/** Where the arrays of a ranked structure lie. */
export function entryOfRanked(results: FoldResults, ranked: RankedModel): FoldEntry | null {
  return results.folds.flatMap(({ value }) => value).find((entry) => isOf(entry, ranked)) ?? null;
}

/** Where the arrays of a target of some predictions lie: by the status of their step, or by their ranking. */
export function entryOfTarget(results: FoldResults, predictions: Shown, target: string): FoldEntry | null {
  for (const { shown, value } of results.rankings) {
    const ranked = value.models.find((model) => model.target === target);
    if (ranked && sameMaker(shown, predictions)) return entryOfRanked(results, ranked);
  }
  for (const { shown, value } of results.statuses) {
    if (!sameMaker(shown, predictions)) continue;
    const paths = [...value.targets].filter(([, own]) => own === target).map(([path]) => path);
    const trees = results.folds.filter((folds) => sameMaker(folds.shown, shown));
    const found = trees.flatMap((tree) => tree.value).find((entry) => paths.includes(entry.path));
    if (found) return found;
  }
  return null;
}

/** Where a ranked structure can be looked at: beside the ranking, or among all that its step predicted. */
export interface Place {
  predictions: string;
  target: string;
}

export function placeOf(
  results: FoldResults,
  ranking: Shown,
  ranked: RankedModel,
  predictions: readonly Shown[],
): Place | null {
  if (ranked.target !== null) {
    const beside = predictions.find((one) => sameMaker(one, ranking));
    if (beside) return { predictions: beside.artifact.digest, target: ranked.target };
  }
  const entry = entryOfRanked(results, ranked);
  const tree = results.folds.find(({ shown }) => shown.artifact.digest === entry?.digest);
  if (!entry || !tree) return null;
  for (const { shown, value } of results.statuses) {
    const target = value.targets.get(entry.path);
    const beside = predictions.find((one) => sameMaker(one, shown));
    if (target !== undefined && beside && sameMaker(shown, tree.shown))
      return { predictions: beside.artifact.digest, target };
  }
  return null;
}
