/** The plan of a training in words. Pure: no React, no network. */
import { formatBytes, formatRange } from "./format";

const TIERS: [key: string, name: string][] = [
  ["gpu", "GPU"],
  ["pinned", "pinned"],
  ["ram", "memory"],
  ["disk", "disk"],
];
/** One rank of a training as it is planned: ranks, bytes by tier, and the time of a step. */
export function trainingWords(plan: Record<string, unknown> | null | undefined): string[] {
  if (!plan) return [];
  const words: string[] = [];
  const { ranks, peak_bytes: peaks, step_seconds: step, step_seconds_of: kinds } = plan;
  const each = typeof ranks === "number" && ranks > 1;
  if (each) words.push(`${ranks} ranks`);
  for (const [key, name] of TIERS) {
    const bytes = isRecord(peaks) ? peaks[key] : undefined;
    if (typeof bytes === "number" && bytes > 0) {
      words.push(`${name} ${formatBytes(bytes)}${each ? " each" : ""}`);
    }
  }
  if (isSpan(step)) words.push(`a step ${formatStep(step)}${mostly(kinds)}`);
  return [...words, ...exchanged(plan)];
}

/** Why the plan does not fit, and what would help; nothing where it fits. */
export function trainingRefusal(plan: Record<string, unknown> | null | undefined): string {
  return typeof plan?.refusal === "string" ? plan.refusal : "";
}

/** What most of a step goes to, where that is not computing. */
function mostly(kinds: unknown): string {
  if (!isRecord(kinds)) return "";
  const spans = Object.entries(kinds).filter(([, span]) => isSpan(span)) as [string, [number, number]][];
  const [first] = spans.sort(([, a], [, b]) => b[1] - a[1]);
  return first && first[0] !== "compute" ? `, mostly ${first[0]}` : "";
}

/** What a rank sends; with an optimizer that compresses, in how many steps, and how much on average. */
function exchanged({ options, exchanges, sent_bytes: sent }: Record<string, unknown>): string[] {
  const bytes = Object.values(isRecord(sent) ? sent : {}).reduce<number>((a, b) => a + Number(b), 0);
  const amount = bytes > 0 ? [`${formatBytes(bytes)} sent a step`] : [];
  if (!isRecord(exchanges) || !isRecord(exchanges.steps_of) || !isRecord(options)) return amount;
  const counts = Object.values(exchanges.steps_of).map((one) => (isRecord(one) ? Number(one.steps) : 0));
  const steps = counts.reduce((a, b) => a + b, 0);
  return [
    `${String(options.optimizer)} exchanges in ${String(exchanges.rounds)} of ${steps} steps`,
    ...amount,
  ];
}

function formatStep([low, high]: [number, number]): string {
  if (high >= 2) return formatRange(low, high);
  return `${Math.round(low * 1000)} to ${Math.round(high * 1000)} ms`;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isSpan(value: unknown): value is [number, number] {
  return Array.isArray(value) && value.length === 2 && value.every((part) => typeof part === "number");
}
