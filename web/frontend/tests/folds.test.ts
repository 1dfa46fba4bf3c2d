import { describe, expect, it } from "vitest";

import { chainBorders, chainName, chainsOf, rangesInChains, residueName } from "@/results/chains";
import {
  entryOfTarget,
  type FoldResults,
  placeOf,
  readFolds,
  readRanking,
  readStatus,
} from "@/results/folds";
import type { Shown } from "@/results/outputs";

function makeShown(digest: string, steps: string[]): Shown {
  const artifact = { digest, type: "table", size: 1, name: digest, media_type: "application/json" };
  return { label: digest, artifact, steps };
}

const STATUS = {
  kind: "fold.status",
  records: [
    {
      record: "mono",
      state: "succeeded",
      structures: [
        { path: "models/mono/esmfold/1/0", target: "mono_s1_0", recycles: 3, converged: true },
        { path: "models/mono/esmfold/2/0", target: "mono_s2_0", recycles: 4, converged: false },
      ],
    },
    { record: "bad", state: "failed", structures: [], error: { code: "oom", message: "no memory" } },
    { record: "odd", state: "failed" },
  ],
};
const MODEL = { model: "esmfold", weights: "aa", sample: 0, confidence: 0.9, plddt: 90, ptm: 0.8 };
const RANKING = {
  kind: "fold.ranking",
  rule: "by pLDDT",
  records: [
    {
      record: "mono",
      models: [
        { ...MODEL, rank: 1, name: "b", target: "mono", seed: 2 },
        { ...MODEL, rank: 2, name: "a", target: null, seed: 1 },
      ],
    },
  ],
};
const ROOT = {
  kind: "folds",
  weights: "aa",
  structures: [
    { record: "mono", title: "mono", model: "esmfold", seed: 1, sample: 0 },
    { record: "mono", title: "mono", model: "esmfold", seed: 2, sample: 0 },
  ],
};

function makeResults(): FoldResults {
  return {
    statuses: [{ shown: makeShown("status", ["fold"]), value: readStatus(STATUS)! }],
    rankings: [{ shown: makeShown("ranking", ["rank"]), value: readRanking(RANKING)! }],
    folds: [{ shown: makeShown("folds", ["fold"]), value: readFolds("folds", ROOT) }],
  };
}

describe("readStatus", () => {
  it("tells what failed and why, and counts all", () => {
    const status = readStatus(STATUS);
    expect(status?.total).toBe(3);
    expect(status?.failures).toEqual([
      { record: "bad", message: "no memory", hint: null },
      { record: "odd", message: "no reason is known", hint: null },
    ]);
    expect(status?.recycles.get("models/mono/esmfold/1/0")).toEqual({ passes: 3, converged: true });
  });

  it("leaves other documents alone", () => {
    expect(readStatus({ precision: {} })).toBeNull();
    expect(readStatus(null)).toBeNull();
    expect(readRanking(STATUS)).toBeNull();
    expect(readFolds("digest", { kind: "predictions", structures: ROOT.structures })).toEqual([]);
  });
});

describe("structures and where they lie", () => {
  it("finds the arrays of a ranked target and of a target of the folding step", () => {
    const results = makeResults();
    expect(entryOfTarget(results, makeShown("p", ["rank"]), "mono")?.path).toBe("models/mono/esmfold/2/0");
    expect(entryOfTarget(results, makeShown("p", ["fold"]), "mono_s1_0")?.path).toBe(
      "models/mono/esmfold/1/0",
    );
    expect(entryOfTarget(results, makeShown("p", ["elsewhere"]), "mono")).toBeNull();
  });

  it("opens a structure beside the ranking, else among all of its step", () => {
    const results = makeResults();
    const { shown, value } = results.rankings[0]!;
    const predictions = [makeShown("ranked", ["rank"]), makeShown("all", ["fold"])];
    expect(placeOf(results, shown, value.models[0]!, predictions)).toEqual({
      predictions: "ranked",
      target: "mono",
    });
    expect(placeOf(results, shown, value.models[1]!, predictions)).toEqual({
      predictions: "all",
      target: "mono_s1_0",
    });
    expect(placeOf(results, shown, value.models[1]!, [])).toBeNull();
  });

  it("takes weights into account where two models have one name", () => {
    const results = makeResults();
    results.folds.unshift({
      shown: makeShown("other", ["other"]),
      value: readFolds("other", { ...ROOT, weights: "bb" }),
    });
    expect(entryOfTarget(results, makeShown("p", ["rank"]), "mono")?.digest).toBe("folds");
  });
});

describe("chains", () => {
  const chains = chainsOf(["MKV", "GSTP"]);

  it("are named as in the written structures", () => {
    expect([0, 25, 26, 27, 52].map(chainName)).toEqual(["A", "Z", "AA", "BA", "AB"]);
    expect(chainBorders(chains)).toEqual([3]);
  });

  it("name residues as people count them", () => {
    expect(residueName(chains, "MKVGSTP", 3)).toBe("B:G1");
    expect(residueName(chainsOf(["MKV"]), "MKV", 1)).toBe("K2");
    expect(residueName([], null, 4)).toBe("5");
  });

  it("split a range that crosses them", () => {
    expect(rangesInChains(chains, { from: 1, to: 4 })).toEqual([
      { chain: "A", from: 2, to: 3 },
      { chain: "B", from: 1, to: 2 },
    ]);
    expect(rangesInChains([], { from: 1, to: 4 })).toEqual([{ from: 2, to: 5 }]);
  });
});
