import { expect, test } from "vitest";

import { trainingRefusal, trainingWords } from "@/ui/training-plan";

const PLAN = {
  ranks: 4,
  peak_bytes: { ram: 734003200, disk: 2147483648 },
  step_seconds: [0.2, 1.1],
  step_seconds_of: { compute: [0.1, 0.3], disk: [0.2, 0.8] },
};

test("a training's plan is told by rank, tier and step", () => {
  expect(trainingWords(PLAN)).toEqual([
    "4 ranks",
    "memory 700 MiB each",
    "disk 2.0 GiB each",
    "a step 200 to 1100 ms, mostly disk",
  ]);
});

test("a plan of one rank says nothing of ranks", () => {
  const words = trainingWords({
    ...PLAN,
    ranks: 1,
    step_seconds: [3, 9],
    step_seconds_of: { compute: [3, 9] },
  });
  expect(words).toEqual(["memory 700 MiB", "disk 2.0 GiB", "a step 3 to 9 s"]);
});

test("what an optimizer that compresses exchanges is told with its mean", () => {
  const words = trainingWords({
    ...PLAN,
    options: { optimizer: "zero_one_adam" },
    sent_bytes: { all_reduce: 1048576, all_gather: 524288, all_to_all: 524288 },
    exchanges: {
      rounds: 773,
      steps_of: { whole: { steps: 84 }, sync: { steps: 689 }, local: { steps: 427 } },
    },
  });
  expect(words.slice(-2)).toEqual(["zero_one_adam exchanges in 773 of 1200 steps", "2.0 MiB sent a step"]);
});

test("ranks that send whole gradients say how much", () => {
  expect(trainingWords({ ...PLAN, sent_bytes: { all_reduce: 3145728 } }).at(-1)).toBe("3.0 MiB sent a step");
  expect(trainingWords({ ...PLAN, sent_bytes: {} }).at(-1)).not.toContain("sent");
});

test("what is no plan is not told", () => {
  expect(trainingWords(null)).toEqual([]);
  expect(trainingWords({ options: { stage: 1 } })).toEqual([]);
  expect(trainingRefusal({ refusal: "set stage to 2" })).toBe("set stage to 2");
  expect(trainingRefusal(null)).toBe("");
});
