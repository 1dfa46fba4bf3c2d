/** How events change what a page already knows: pure functions over the API's own shapes. */
import { isGathering, type Run, type RunSummary, type StepSummary } from "@/api/types";
import type { EventData, FeedEvent } from "./stream";

const ENVELOPE = new Set(["seq", "run", "step", "time", "kind"]);

function withoutEnvelope(data: EventData): Record<string, unknown> {
  return Object.fromEntries(Object.entries(data).filter(([name]) => !ENVELOPE.has(name)));
}

/** Fields that events leave out where there is nothing to say: their absence is news, too. */
const UNSAID = { error: null, waiting_for: null };

function countStates(steps: readonly StepSummary[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const step of steps) counts[step.state] = (counts[step.state] ?? 0) + 1;
  return counts;
}

/** The share of work done, 0 to 1: the mean over steps, where a finished step counts fully. */
export function progressOf(steps: readonly StepSummary[]): number {
  if (steps.length === 0) return 0;
  const done = steps.reduce((sum, step) => {
    if (step.state === "succeeded" || step.state === "skipped") return sum + 1;
    return sum + (step.state === "running" ? (step.progress ?? 0) : 0);
  }, 0);
  return done / steps.length;
}

/**
 * A run after some events, in order. Steps that were not known yet (a scatter that has just been expanded)
 * are added. Returns the same object when nothing concerns it.
 */
export function applyRunEvents(run: Run, events: readonly FeedEvent[]): Run {
  const steps = new Map(run.steps.map((step) => [step.id, step]));
  let summary: Partial<RunSummary> = {};
  let stepsChanged = false;
  for (const { kind, data } of events) {
    if (data.run !== run.id) continue;
    if (kind === "run.state") {
      summary = { ...summary, error: null, ...withoutEnvelope(data) };
    } else if (kind === "run.outputs" && typeof data.outputs === "object") {
      summary = { ...summary, outputs: data.outputs } as Partial<RunSummary>;
    } else if ((kind === "step.state" || kind === "step.progress") && data.step) {
      const known = steps.get(data.step);
      if (!known && kind === "step.progress") continue;
      const unsaid = kind === "step.state" ? UNSAID : {};
      steps.set(data.step, { ...known, ...unsaid, ...withoutEnvelope(data), id: data.step } as StepSummary);
      stepsChanged = true;
    }
  }
  if (!stepsChanged && Object.keys(summary).length === 0) return run;
  const list = [...steps.values()];
  const work = list.filter((step) => !isGathering(step));
  const recounted = stepsChanged
    ? { steps: list, counts: countStates(work), progress: progressOf(work) }
    : {};
  return { ...run, ...recounted, ...summary };
}

/** How far an attempt's log and metrics are known to reach, in bytes. */
export interface Growth {
  attempt: number;
  log: number;
  metrics: number;
}

/** The growth of each step after some events. A new attempt starts from nothing. */
export function applyGrowth(
  growth: ReadonlyMap<string, Growth>,
  events: readonly FeedEvent[],
): ReadonlyMap<string, Growth> {
  let next: Map<string, Growth> | null = null;
  for (const { kind, data } of events) {
    if ((kind !== "step.log" && kind !== "step.metrics") || !data.step) continue;
    next ??= new Map(growth);
    const attempt = Number(data.attempt ?? 1);
    const known = next.get(data.step);
    const base = known && known.attempt === attempt ? known : { attempt, log: 0, metrics: 0 };
    const field = kind === "step.log" ? "log" : "metrics";
    next.set(data.step, { ...base, [field]: Math.max(base[field], Number(data.offset ?? 0)) });
  }
  return next ?? growth;
}

/** Rows of the list of runs after some events; runs that are not among them are left to a new fetch. */
export function applyToRows(rows: readonly RunSummary[], events: readonly FeedEvent[]): RunSummary[] {
  const changes = new Map<string, Record<string, unknown>>();
  for (const { kind, data } of events) {
    if (kind !== "run.state" || !data.run) continue;
    changes.set(data.run, { ...changes.get(data.run), error: null, ...withoutEnvelope(data) });
  }
  return rows.map((row) => {
    const change = changes.get(row.id);
    return change ? { ...row, ...change, id: row.id } : row;
  });
}
