/** What an attempt planned and took, in words. Pure: no React, no network. */
import type { Attempt } from "@/api/types";
import { formatBytes, formatValue } from "@/ui/format";

/** Fields that are shown elsewhere, or are for programs. */
const TOLD = new Set([
  "predicted_peak_bytes",
  "measured_peak_bytes",
  "process_bytes",
  "correction",
  "key",
  "step",
  "steps",
]);

/** What an attempt meant to hold at its peak, in bytes; null where it did not say. */
export function plannedPeak({ plan }: Attempt): number | null {
  return plan?.predicted_peak_bytes || null;
}

/** What an attempt held at its peak: counted like its plan where it made one, else by its whole process. */
export function measuredPeak({ plan, peak_memory_bytes: peak }: Attempt): number | null {
  if (plan?.measured_peak_bytes) return plan.measured_peak_bytes;
  // Of a GPU, and of ranks in processes of their own, only the operator can tell.
  if (plan?.device === "gpu" || Number(plan?.ranks) > 1) return null;
  const before = plan?.process_bytes ?? 0;
  if (!peak) return null;
  return peak > before ? peak - before : peak;
}

/** How the attempt went about it: "plan 2 of 9", "residues 512", "bfloat16", "offload pair". */
export function planWords({ plan }: Attempt): string[] {
  if (!plan) return [];
  const words: string[] = [];
  const { step, steps, correction, options } = plan as Record<string, unknown>;
  if (typeof step === "number" && typeof steps === "number") words.push(`plan ${step + 1} of ${steps}`);
  for (const [name, value] of Object.entries(plan)) if (!TOLD.has(name)) words.push(...said(name, value));
  if (options !== null && typeof options === "object") {
    for (const [name, value] of Object.entries(options)) words.push(...said(name, value));
  }
  if (typeof correction === "number" && correction !== 1) {
    words.push(`corrected by ${correction.toFixed(2)} after earlier attempts`);
  }
  return words;
}

/** What is otherwise than in the attempt before: "frugality 0 to 1", "memory 4.0 GiB to 6.0 GiB". */
export function changeWords({ changes }: Attempt): string[] {
  return Object.entries(changes ?? {}).map(([name, [before, after]]) => {
    if (name === "memory_bytes") return `memory ${bytesOrNone(before)} to ${bytesOrNone(after)}`;
    return `${spaced(name)} ${formatValue(before)} to ${formatValue(after)}`;
  });
}

/** One field; nothing for what is off, left open, or too large for a line. */
function said(name: string, value: unknown): string[] {
  if (value === true) return [spaced(name)];
  if (typeof value === "string" && value !== "" && value !== "auto") return [`${spaced(name)} ${value}`];
  if (typeof value !== "number") return [];
  return [
    name.endsWith("_bytes")
      ? `${spaced(name.slice(0, -"_bytes".length))} ${formatBytes(value)}`
      : `${spaced(name)} ${formatValue(value)}`,
  ];
}

function bytesOrNone(value: unknown): string {
  return Number(value) > 0 ? formatBytes(Number(value)) : "none";
}

function spaced(name: string): string {
  return name.replaceAll("_", " ");
}
