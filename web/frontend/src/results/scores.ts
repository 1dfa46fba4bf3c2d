/** Reads the table that `contacts.evaluate` writes. Unknown parts are kept, missing ones are left out. */

export interface ScoreRow {
  method: string;
  label: string;
  /** Precision at each cut, in the order of `cuts`; null where it was not measured. */
  values: (number | null)[];
  kind: "model" | "classical" | "control";
}

export interface Interval {
  cut: string;
  mean: number;
  low: number;
  high: number;
}

export interface Comparison {
  label: string;
  intervals: Interval[];
}

export interface ScoreTable {
  cuts: string[];
  rows: ScoreRow[];
  comparisons: Comparison[];
  /** Single numbers, for example lDDT. */
  figures: { name: string; value: number }[];
}

interface MethodInfo {
  label: string;
  kind: ScoreRow["kind"];
}

const METHODS: Record<string, MethodInfo> = {
  model: { label: "Trained model", kind: "model" },
  couplings_pseudolikelihood: { label: "Couplings, pseudolikelihood + APC", kind: "classical" },
  couplings_mean_field: { label: "Couplings, mean field + APC", kind: "classical" },
  couplings: { label: "Couplings, the better of both", kind: "classical" },
  mi_apc: { label: "Mutual information + APC", kind: "classical" },
  mi: { label: "Mutual information", kind: "classical" },
  prior: { label: "Separation prior", kind: "control" },
  random: { label: "Random pairs", kind: "control" },
  shuffled: { label: "Trained model, columns shuffled (ablation)", kind: "control" },
};

const ORDER = Object.keys(METHODS);

const FIGURES: Record<string, string> = {
  families: "Families never seen in training",
  lddt: "lDDT of the trace",
  rmsd: "RMSD over the better mirror image, Å",
  confidence_correlation: "Correlation of confidence with true lDDT",
};

const COMPARISONS: Record<string, string> = {
  model_minus_best_classical: "Model minus the best classical method",
  shuffled_minus_prior: "Shuffled columns minus the separation prior",
};

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

function words(name: string): string {
  const text = name.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** The table, or null when the document is not one of `contacts.evaluate`. */
export function readScores(document: unknown): ScoreTable | null {
  if (!isRecord(document) || !isRecord(document.precision)) return null;
  const cuts = Object.entries(document.precision).filter(([, scores]) => isRecord(scores)) as [
    string,
    Record<string, unknown>,
  ][];
  if (cuts.length === 0) return null;
  return {
    cuts: cuts.map(([cut]) => cut),
    rows: readRows(cuts.map(([, scores]) => scores)),
    comparisons: readComparisons(document.bootstrap),
    figures: Object.entries(document).flatMap(([name, value]) =>
      isNumber(value) ? [{ name: FIGURES[name] ?? words(name), value }] : [],
    ),
  };
}

function readRows(columns: Record<string, unknown>[]): ScoreRow[] {
  const methods = new Set(columns.flatMap((column) => Object.keys(column)));
  if (methods.has("couplings_mean_field") && methods.has("couplings_pseudolikelihood"))
    methods.delete("couplings");
  const place = (method: string) => (ORDER.includes(method) ? ORDER.indexOf(method) : ORDER.length);
  return [...methods]
    .sort((left, right) => place(left) - place(right))
    .map((method) => ({
      method,
      label: METHODS[method]?.label ?? words(method),
      kind: METHODS[method]?.kind ?? "classical",
      values: columns.map((column) => (isNumber(column[method]) ? column[method] : null)),
    }));
}

function readComparisons(bootstrap: unknown): Comparison[] {
  if (!isRecord(bootstrap)) return [];
  return Object.entries(bootstrap).flatMap(([name, cuts]) => {
    if (!isRecord(cuts)) return [];
    const intervals = Object.entries(cuts).flatMap(([cut, interval]) => {
      if (!isRecord(interval)) return [];
      const { mean, low, high } = interval;
      return isNumber(mean) && isNumber(low) && isNumber(high) ? [{ cut, mean, low, high }] : [];
    });
    return intervals.length > 0 ? [{ label: COMPARISONS[name] ?? words(name), intervals }] : [];
  });
}
