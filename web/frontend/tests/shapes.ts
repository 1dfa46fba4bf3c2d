/** Complete objects of the API for tests, with only what matters spelled out. */
import type { Attempt, Port, Run, StepSummary } from "@/api/types";

export function makeStep(id: string, rest: Partial<StepSummary> = {}): StepSummary {
  return {
    id,
    name: id.replace(/\[.*$/, ""),
    key: /\[(.*)\]$/.exec(id)?.[1] ?? null,
    uses: "test.step@1",
    state: "pending",
    cached: false,
    attempt: 0,
    attempts: 0,
    progress: 0,
    message: null,
    waiting_for: null,
    after: [],
    started_at: null,
    finished_at: null,
    error: null,
    resources: null,
    items: null,
    ...rest,
  };
}

export function makeRun(steps: StepSummary[], rest: Partial<Run> = {}): Run {
  return {
    id: "r1",
    name: "a run",
    workflow: { name: "test", digest: "sha256:00" },
    state: "running",
    priority: 0,
    created_at: "2026-11-21T10:00:00.000Z",
    started_at: null,
    finished_at: null,
    resumed_from: null,
    cancel_requested: false,
    error: null,
    progress: 0,
    counts: {},
    inputs: {},
    outputs: null,
    source: "",
    steps,
    ...rest,
  };
}

export function makePort(name: string, type: string, rest: Partial<Port> = {}): Port {
  return { name, type, required: false, default: null, help: "", choices: null, limits: null, ...rest };
}

export function makeAttempt(rest: Partial<Attempt> = {}): Attempt {
  return {
    number: 1,
    state: "succeeded",
    cause: null,
    error: null,
    started_at: null,
    finished_at: null,
    worker: null,
    node: null,
    pid: null,
    exit: null,
    peak_memory_bytes: null,
    cpu_seconds: null,
    resources: null,
    plan: null,
    changes: null,
    ...rest,
  };
}

/** A plan with its own fields beside those of every plan. */
export function makePlan(own: Record<string, unknown>): Attempt["plan"] {
  const known = {
    predicted_peak_bytes: null,
    measured_peak_bytes: null,
    process_bytes: null,
    correction: null,
    key: null,
  };
  return { ...known, ...own };
}
