/** Reads the table that `contacts.evaluate` writes. What is missing or unknown is left out. */

export interface Interval {
  mean: number;
  low: number;
  high: number;
}

export interface Score {
  value: number;
  /** 95 % interval over the targets; null where it was not measured. */
  interval: Interval | null;
}

export interface ScoreRow {
  method: string;
  label: string;
  /** Precision at each cut, in the order of `cuts`; null where it was not measured. */
  scores: (Score | null)[];
  kind: "model" | "classical" | "control";
}

/** A difference between methods at one cut. */
export interface Margin extends Interval {
  cut: string;
  /** What else is to be said of it, for example which method was the best. */
  note: string;
}

export interface ScoreTable {
  cuts: string[];
  rows: ScoreRow[];
  /** The model against the best classical method. */
  margins: Margin[];
  /** What is left of the prediction when the columns of the alignment are shuffled. */
  ablation: Margin[];
  figures: { name: string; value: number }[];
  /** Whether the scored families follow the same letter energies as those of the training. */
  sharesEnergies: boolean;
}

const METHODS: Record<string, { label: string; kind: ScoreRow["kind"] }> = {
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

const FIGURES: [path: string[], name: string][] = [
  [["families"], "Families scored, never seen in training"],
  [["lddt"], "lDDT of the trace"],
  [["tm_score"], "TM-score over the better mirror image"],
  [["rmsd"], "RMSD over the better mirror image, Å"],
  [["confidence", "pearson"], "Correlation of confidence with true lDDT (Pearson)"],
  [["confidence", "spearman"], "The same by rank (Spearman)"],
  [["largest_overlap_with_training"], "Largest overlap of a fold with training"],
];

type Fields = Record<string, unknown>;

function fieldsOf(value: unknown): Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};
}

function numberOf(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function intervalOf(value: unknown): Interval | null {
  const { mean, low, high } = fieldsOf(value);
  const [middle, from, to] = [numberOf(mean), numberOf(low), numberOf(high)];
  return middle === null || from === null || to === null ? null : { mean: middle, low: from, high: to };
}

function labelOf(method: string): string {
  return METHODS[method]?.label ?? method.replaceAll("_", " ");
}

/** The table, or null when the document is none of `contacts.evaluate`. */
export function readScores(document: unknown): ScoreTable | null {
  const table = fieldsOf(document);
  const precision = fieldsOf(table.precision);
  const cuts = Object.keys(precision).filter((cut) => Object.keys(fieldsOf(precision[cut])).length > 0);
  if (cuts.length === 0) return null;
  const intervals = fieldsOf(table.intervals);
  return {
    cuts,
    rows: readRows(cuts, precision, intervals),
    margins: readMargins(cuts, fieldsOf(fieldsOf(table.bootstrap).model_minus_best_classical)),
    ablation: readAblation(cuts, fieldsOf(table.ablation)),
    figures: FIGURES.flatMap(([path, name]) => {
      const value = numberOf(path.reduce<unknown>((found, field) => fieldsOf(found)[field], table));
      return value === null ? [] : [{ name, value }];
    }),
    sharesEnergies: table.shared_energies === true,
  };
}

function readRows(cuts: string[], precision: Fields, intervals: Fields): ScoreRow[] {
  const methods = new Set(cuts.flatMap((cut) => Object.keys(fieldsOf(precision[cut]))));
  if (methods.has("couplings_mean_field") && methods.has("couplings_pseudolikelihood"))
    methods.delete("couplings");
  const place = (method: string) => (ORDER.includes(method) ? ORDER.indexOf(method) : ORDER.length);
  return [...methods]
    .sort((left, right) => place(left) - place(right))
    .map((method) => ({
      method,
      label: labelOf(method),
      kind: METHODS[method]?.kind ?? "classical",
      scores: cuts.map((cut) => {
        const value = numberOf(fieldsOf(precision[cut])[method]);
        return value === null ? null : { value, interval: intervalOf(fieldsOf(intervals[cut])[method]) };
      }),
    }));
}

function readMargins(cuts: string[], margins: Fields): Margin[] {
  return cuts.flatMap((cut) => {
    const interval = intervalOf(margins[cut]);
    const best = fieldsOf(margins[cut]).best;
    if (!interval) return [];
    return [{ ...interval, cut, note: typeof best === "string" ? `best: ${labelOf(best)}` : "" }];
  });
}

function readAblation(cuts: string[], ablation: Fields): Margin[] {
  return cuts.flatMap((cut) => {
    const { shuffled_minus_prior: rest, interval, ratio } = fieldsOf(ablation[cut]);
    const mean = numberOf(rest);
    const [low, high] = Array.isArray(interval) ? interval.map(numberOf) : [];
    if (mean === null || low == null || high == null) return [];
    const share = numberOf(ratio);
    return [
      { cut, mean, low, high, note: share === null ? "" : `${(share * 100).toFixed(1)} % of the gain` },
    ];
  });
}
