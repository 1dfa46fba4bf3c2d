import { describe, expect, it } from "vitest";

import { applyGrowth, applyRunEvents, applyToRows, progressOf } from "@/events/reducer";
import type { EventKind, FeedEvent } from "@/events/stream";
import { makeRun, makeStep } from "./shapes";

let seq = 0;
function event(kind: EventKind, data: Record<string, unknown>): FeedEvent {
  seq += 1;
  return { kind, data: { seq, run: "r1", time: "2026-11-21T10:00:01.000Z", ...data } };
}

describe("applyRunEvents", () => {
  it("replaces what a step's state says and counts anew", () => {
    const run = makeRun([makeStep("a"), makeStep("b")]);
    const next = applyRunEvents(run, [
      event("step.state", { step: "a", ...makeStep("a", { state: "running", attempt: 1 }) }),
      event("step.progress", { step: "a", progress: 0.5, message: "half" }),
    ]);
    expect(next.steps[0]).toMatchObject({ state: "running", attempt: 1, progress: 0.5, message: "half" });
    expect(next.steps[1]).toBe(run.steps[1]);
    expect(next.counts).toEqual({ running: 1, pending: 1 });
    expect(next.progress).toBe(0.25);
  });

  it("keeps the envelope of events out of the step", () => {
    const next = applyRunEvents(makeRun([makeStep("a")]), [
      event("step.progress", { step: "a", progress: 0.1 }),
    ]);
    expect(Object.keys(next.steps[0] as object).sort()).toEqual(Object.keys(makeStep("a")).sort());
  });

  it("forgets why a step waited or failed when its next state does not say so", () => {
    const error = { cause: "oom_host", code: "x", message: "m", location: null, hint: null, step: null };
    const run = makeRun([makeStep("a", { state: "ready", waiting_for: "2 cores", error })]);
    const next = applyRunEvents(run, [event("step.state", { step: "a", state: "running", attempt: 2 })]);
    expect(next.steps[0]).toMatchObject({ state: "running", waiting_for: null, error: null });
    const progress = applyRunEvents(run, [event("step.progress", { step: "a", progress: 0.2 })]);
    expect(progress.steps[0]).toMatchObject({ waiting_for: "2 cores", error });
  });

  it("adds the items of a scatter that has just been expanded, after the known steps", () => {
    const next = applyRunEvents(makeRun([makeStep("a")]), [
      event("step.state", { step: "fold[1]", ...makeStep("fold[1]", { state: "ready" }) }),
      event("step.state", { step: "fold[2]", ...makeStep("fold[2]", { state: "ready" }) }),
    ]);
    expect(next.steps.map((step) => step.id)).toEqual(["a", "fold[1]", "fold[2]"]);
  });

  it("counts the items of a scattered step and not the row that gathers them", () => {
    const gathering = makeStep("fold", { state: "running", items: 2, progress: 0.5 });
    const next = applyRunEvents(makeRun([gathering, makeStep("fold[1]", { state: "succeeded" })]), [
      event("step.state", { step: "fold[2]", ...makeStep("fold[2]", { state: "running" }) }),
    ]);
    expect(next.counts).toEqual({ succeeded: 1, running: 1 });
    expect(next.progress).toBe(0.5);
  });

  it("takes over the state of the run, and its own figures win over counted ones", () => {
    const next = applyRunEvents(makeRun([makeStep("a")]), [
      event("step.state", { step: "a", ...makeStep("a", { state: "succeeded" }) }),
      event("run.state", { state: "succeeded", progress: 1, finished_at: "2026-11-21T10:01:00.000Z" }),
    ]);
    expect(next).toMatchObject({ id: "r1", state: "succeeded", progress: 1, counts: { succeeded: 1 } });
  });

  it("gives the same object for events of other runs and for progress of unknown steps", () => {
    const run = makeRun([makeStep("a")]);
    expect(applyRunEvents(run, [event("step.state", { run: "r2", step: "a", state: "failed" })])).toBe(run);
    expect(applyRunEvents(run, [event("step.progress", { step: "gone", progress: 1 })])).toBe(run);
    expect(applyRunEvents(run, [event("step.log", { step: "a", attempt: 1, offset: 10 })])).toBe(run);
  });

  it("is the same in one batch as event by event", () => {
    const events = [
      event("run.state", { state: "running" }),
      event("step.state", { step: "a", ...makeStep("a", { state: "running" }) }),
      event("step.progress", { step: "a", progress: 0.3 }),
      event("step.state", { step: "b", ...makeStep("b", { state: "ready" }) }),
      event("step.state", { step: "a", ...makeStep("a", { state: "succeeded", progress: 1 }) }),
    ];
    const run = makeRun([makeStep("a"), makeStep("b")]);
    const oneByOne = events.reduce((state, one) => applyRunEvents(state, [one]), run);
    expect(applyRunEvents(run, events)).toEqual(oneByOne);
  });
});

describe("progressOf", () => {
  it("counts finished steps fully, running ones in part, others not", () => {
    const steps = [
      makeStep("a", { state: "succeeded" }),
      makeStep("b", { state: "skipped" }),
      makeStep("c", { state: "running", progress: 0.5 }),
      makeStep("d", { state: "failed", progress: 0.9 }),
    ];
    expect(progressOf(steps)).toBeCloseTo(2.5 / 4);
    expect(progressOf([])).toBe(0);
  });
});

describe("applyGrowth", () => {
  it("keeps the furthest offsets, and begins anew with another attempt", () => {
    const first = applyGrowth(new Map(), [
      event("step.log", { step: "a", attempt: 1, offset: 300 }),
      event("step.log", { step: "a", attempt: 1, offset: 200 }),
      event("step.metrics", { step: "a", attempt: 1, offset: 50 }),
    ]);
    expect(first.get("a")).toEqual({ attempt: 1, log: 300, metrics: 50 });
    const second = applyGrowth(first, [event("step.log", { step: "a", attempt: 2, offset: 10 })]);
    expect(second.get("a")).toEqual({ attempt: 2, log: 10, metrics: 0 });
  });

  it("gives the same map when nothing grew", () => {
    const growth = new Map();
    expect(applyGrowth(growth, [event("run.state", { state: "failed" })])).toBe(growth);
  });
});

describe("applyToRows", () => {
  it("changes the rows that events name and leaves the others alone", () => {
    const rows = [makeRun([], { id: "r1" }), makeRun([], { id: "r2" })];
    const next = applyToRows(rows, [event("run.state", { state: "failed" })]);
    expect(next[0]).toMatchObject({ id: "r1", state: "failed" });
    expect(next[1]).toBe(rows[1]);
  });
});
