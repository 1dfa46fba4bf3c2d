import { describe, expect, it } from "vitest";

import { filterLines, splitAtMatches } from "@/run/log-filter";
import { forLog, toCurves } from "@/run/curves-data";
import { byInterest, directDependencies, firstFailure, groupSteps, mostTelling } from "@/run/step-groups";
import { splitLines } from "@/run/use-attempt-log";
import { makeStep } from "./shapes";

describe("groupSteps", () => {
  it("keeps the items of a scattered step together", () => {
    const groups = groupSteps([
      makeStep("simulate", { state: "succeeded" }),
      makeStep("train[1]", { state: "succeeded", cached: true, after: ["simulate"] }),
      makeStep("train[2]", { state: "running", progress: 0.5, after: ["simulate"] }),
      makeStep("report", { after: ["train"] }),
    ]);
    expect(groups.map(({ name, scattered, state }) => [name, scattered, state])).toEqual([
      ["simulate", false, "succeeded"],
      ["train", true, "running"],
      ["report", false, "pending"],
    ]);
    expect(groups[1]).toMatchObject({
      progress: 0.75,
      counts: { cached: 1, running: 1 },
      after: ["simulate"],
    });
  });

  it("shows the row of a scatter that is not expanded yet, and its items once they are there", () => {
    const waiting = makeStep("train", { items: null });
    expect(groupSteps([waiting])[0]).toMatchObject({ scattered: false, steps: [waiting] });
    const [group] = groupSteps([waiting, makeStep("train[1]", { state: "ready" })]);
    expect(group?.steps.map((step) => step.id)).toEqual(["train[1]"]);
  });

  it("believes the row that gathers the items", () => {
    const items = [makeStep("a[1]", { state: "succeeded" }), makeStep("a[2]", { state: "failed" })];
    const gathering = makeStep("a", {
      state: "succeeded",
      items: 2,
      message: "1 of 2 items failed and are left out",
    });
    const [tolerated] = groupSteps([gathering, ...items]);
    expect(tolerated).toMatchObject({ state: "succeeded", note: gathering.message, counts: { failed: 1 } });
    const cached = items.map((step) => ({ ...step, state: "succeeded" as const, cached: true }));
    expect(groupSteps([gathering, ...cached])[0]?.state).toBe("cached");
  });

  it("opens what failed, else what runs", () => {
    const [group] = groupSteps([
      makeStep("a[1]", { state: "succeeded" }),
      makeStep("a[2]", { state: "running" }),
      makeStep("a[3]", { state: "failed" }),
    ]);
    expect(group?.state).toBe("failed");
    expect(group && mostTelling(group)?.id).toBe("a[3]");
  });
});

describe("byInterest", () => {
  it("puts what failed and what runs first and keeps the order otherwise", () => {
    const steps = [
      makeStep("a[1]", { state: "succeeded" }),
      makeStep("a[2]", { state: "running" }),
      makeStep("a[3]", { state: "ready" }),
      makeStep("a[4]", { state: "failed" }),
      makeStep("a[5]", { state: "running" }),
    ];
    expect(byInterest(steps).map((step) => step.key)).toEqual(["4", "2", "5", "1", "3"]);
  });
});

describe("directDependencies", () => {
  it("leaves out what follows from other dependencies", () => {
    const groups = groupSteps([
      makeStep("simulate"),
      makeStep("train", { after: ["simulate"] }),
      makeStep("predict", { after: ["train", "simulate"] }),
      makeStep("report", { after: ["predict", "train", "elsewhere"] }),
    ]);
    expect([...directDependencies(groups)]).toEqual([
      ["simulate", []],
      ["train", ["simulate"]],
      ["predict", ["train"]],
      ["report", ["predict"]],
    ]);
  });
});

describe("firstFailure", () => {
  const early = makeStep("b", { state: "failed", finished_at: "2026-11-21T10:00:01.000Z" });
  const late = makeStep("a", { state: "failed", finished_at: "2026-11-21T10:00:09.000Z" });

  it("is the step that the run names, else the one that failed first", () => {
    expect(firstFailure([late, early, makeStep("c")], null)).toBe(early);
    expect(firstFailure([late, early], "a")).toBe(late);
    expect(firstFailure([makeStep("c")], "c")).toBeUndefined();
  });

  it("is an item of the scattered step that the run names, as only items have logs", () => {
    const gathering = makeStep("fold", { state: "failed", items: 2 });
    const item = makeStep("fold[2]", { state: "failed" });
    expect(firstFailure([early, gathering, item], "fold")).toBe(item);
  });
});

describe("logs", () => {
  const lines = [
    { time: null, level: "debug", message: "opening" },
    { time: null, level: "info", message: "Loss 0.4" },
    { time: null, level: "odd", message: "loss of words" },
    { time: null, level: "error", message: "failed" },
  ];

  it("filters by level and text", () => {
    expect(filterLines(lines, "debug", " ")).toBe(lines);
    expect(filterLines(lines, "info", "").map((line) => line.message)).toEqual([
      "Loss 0.4",
      "loss of words",
      "failed",
    ]);
    expect(filterLines(lines, "error", "")).toHaveLength(1);
    expect(filterLines(lines, "debug", "LOSS")).toHaveLength(2);
  });

  it("cuts a line at its matches", () => {
    expect(splitAtMatches("a loss, a Loss", "loss")).toEqual(["a ", "loss", ", a ", "Loss", ""]);
    expect(splitAtMatches("text", "")).toEqual(["text"]);
  });

  it("shows one row a line, without terminal colours", () => {
    const line = { time: null, level: "info", message: "\u001b[31mred\u001b[0m\n<b>second</b>" };
    expect(splitLines(line).map((row) => row.message)).toEqual(["red", "<b>second</b>"]);
  });
});

describe("toCurves", () => {
  const point = (at: number | null, values: Record<string, number | null>) => ({ at, time: null, values });

  it("makes one curve a name", () => {
    const curves = toCurves([
      point(0, { loss: 2 }),
      point(5, { loss: 1, rate: 0.1 }),
      point(10, { loss: null }),
    ]);
    expect(curves).toEqual([
      { name: "loss", xs: [0, 5, 10], ys: [2, 1, null], last: 1 },
      { name: "rate", xs: [5], ys: [0.1], last: 0.1 },
    ]);
  });

  it("counts on where no position is given", () => {
    expect(toCurves([point(null, { a: 1 }), point(null, { a: 2 })])[0]?.xs).toEqual([0, 1]);
  });

  it("replaces what a retry computes anew", () => {
    const points = [0, 10, 20, 30].map((at) => point(at, { loss: at }));
    const again = [20, 30, 40].map((at) => point(at, { loss: -at }));
    expect(toCurves([...points, ...again])[0]).toEqual({
      name: "loss",
      xs: [0, 10, 20, 30, 40],
      ys: [0, 10, -20, -30, -40],
      last: -40,
    });
  });

  it("has gaps on a logarithmic axis where nothing is positive", () => {
    expect(forLog([1, 0, -1, null, 2])).toEqual([1, null, null, null, 2]);
  });
});
