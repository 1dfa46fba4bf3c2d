import { describe, expect, it } from "vitest";

import type { Weights } from "@/api/types";
import { weightsOptions } from "@/inputs/weights";
import { changeWords, measuredPeak, plannedPeak, planWords } from "@/run/plan-words";
import { makeAttempt, makePlan } from "./shapes";

const GIB = 2 ** 30;

describe("planned and measured peak", () => {
  it("counts what was measured as the plan was counted", () => {
    const plan = makePlan({ predicted_peak_bytes: 2 * GIB, process_bytes: GIB });
    const attempt = makeAttempt({ plan, peak_memory_bytes: 4 * GIB });
    expect([plannedPeak(attempt), measuredPeak(attempt)]).toEqual([2 * GIB, 3 * GIB]);
  });

  it("believes the operator's own count first", () => {
    const plan = makePlan({ predicted_peak_bytes: GIB, measured_peak_bytes: 2 * GIB, process_bytes: GIB });
    expect(measuredPeak(makeAttempt({ plan, peak_memory_bytes: 9 * GIB }))).toBe(2 * GIB);
  });

  it("never takes the memory of the host for that of a GPU", () => {
    const plan = makePlan({ predicted_peak_bytes: GIB, process_bytes: GIB, device: "gpu" });
    expect(measuredPeak(makeAttempt({ plan, peak_memory_bytes: 9 * GIB }))).toBeNull();
  });

  it("never takes the memory of the process that leads for that of its ranks", () => {
    const plan = makePlan({ predicted_peak_bytes: GIB, process_bytes: GIB, ranks: 4 });
    expect(measuredPeak(makeAttempt({ plan, peak_memory_bytes: 9 * GIB }))).toBeNull();
  });

  it("says nothing where nothing is known", () => {
    expect(plannedPeak(makeAttempt())).toBeNull();
    expect(measuredPeak(makeAttempt())).toBeNull();
    expect(measuredPeak(makeAttempt({ peak_memory_bytes: GIB }))).toBe(GIB);
    expect(planWords(makeAttempt())).toEqual([]);
    expect(changeWords(makeAttempt())).toEqual([]);
  });
});

describe("plans in words", () => {
  it("names what was chosen and leaves out what is off", () => {
    const plan = makePlan({
      predicted_peak_bytes: GIB,
      key: "esmfold cpu",
      correction: 1.25,
      step: 1,
      steps: 9,
      model: "esmfold",
      residues: 1024,
      peak_bytes: { ram: GIB },
      notes: [],
      options: {
        dtype: "bfloat16",
        backend: "auto",
        group_bytes: 2 ** 20,
        inplace: true,
        offload_pair: false,
      },
    });
    expect(planWords(makeAttempt({ plan }))).toEqual([
      "plan 2 of 9",
      "model esmfold",
      "residues 1024",
      "dtype bfloat16",
      "group 1.0 MiB",
      "inplace",
      "corrected by 1.25 after earlier attempts",
    ]);
  });

  it("says what changed since the attempt before", () => {
    const changes = { frugality: [0, 1], memory_bytes: [4 * GIB, 6 * GIB], cpu: [2, 1] };
    expect(changeWords(makeAttempt({ changes }))).toEqual([
      "frugality 0 to 1",
      "memory 4.0 GiB to 6.0 GiB",
      "cpu 2 to 1",
    ]);
    expect(changeWords(makeAttempt({ changes: { memory_bytes: [0, GIB] } }))).toEqual([
      "memory none to 1.0 GiB",
    ]);
  });
});

describe("weightsOptions", () => {
  const item = (name: string, rest: Partial<Weights> = {}): Weights => ({
    name,
    kind: "esmfold",
    size: GIB,
    state: "ready",
    digest: null,
    progress: 0,
    error: null,
    ...rest,
  });

  it("says what each is and why it may not be chosen", () => {
    const items = [
      item("a"),
      item("b", { kind: null, state: "reading", progress: 0.429 }),
      item("c", { state: "refused" }),
    ];
    expect(weightsOptions(items, "").map(({ label, disabled }) => [label, disabled])).toEqual([
      ["a (esmfold, 1.0 GiB)", false],
      ["b (1.0 GiB, being read for the first time, 42 %)", false],
      ["c (cannot be used)", true],
    ]);
  });

  it("keeps what was chosen before and is gone", () => {
    expect(weightsOptions([], "old")).toEqual([{ value: "old", label: "old (not there)" }]);
  });
});
