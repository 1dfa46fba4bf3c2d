import { expect, test } from "vitest";

import { readValues } from "@/results/run-values";

const ARTIFACT = { $artifact: { digest: "sha256:0", type: "weights", size: 1, name: "model" } };

test("scores of the same names stand side by side, files stand elsewhere", () => {
  const values = readValues({
    adamw: { loss: 1.5, accuracy: 0.5 },
    zero_one_adam: { loss: 1.25, accuracy: 0.75 },
    model: ARTIFACT,
    many: [ARTIFACT],
    families: 40,
    nothing: null,
    mixed: { loss: 1, note: "x" },
    other: { loss: 2 },
  });
  expect(values.tables).toEqual([
    {
      columns: ["loss", "accuracy"],
      rows: [
        { name: "adamw", numbers: [1.5, 0.5] },
        { name: "zero_one_adam", numbers: [1.25, 0.75] },
      ],
    },
    { columns: ["loss"], rows: [{ name: "other", numbers: [2] }] },
  ]);
  expect(values.others).toEqual([
    ["families", 40],
    ["mixed", { loss: 1, note: "x" }],
  ]);
});

test("a run that is not over has no values", () => {
  expect(readValues(null)).toEqual({ tables: [], others: [] });
});
