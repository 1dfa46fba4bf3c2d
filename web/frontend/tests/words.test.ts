import { describe, expect, it } from "vitest";

import { asProblem, Problem, problemFrom } from "@/api/problem";
import { cliCommand, curlCommand, shellQuote } from "@/new-run/equivalents";
import { findOutputs, structuresOf } from "@/results/outputs";
import { readScores } from "@/results/scores";
import { splitCode } from "@/sign-in/one-time-code";
import { formatAge, formatBytes, formatDuration, formatMetric, formatNumber, formatRange } from "@/ui/format";
import { runsSearch } from "@/runs/search";

describe("format", () => {
  it("writes sizes, times and numbers", () => {
    expect([0, 1023, 1024, 1536, 24 * 2 ** 30, 150 * 2 ** 20].map(formatBytes)).toEqual([
      "0 B",
      "1023 B",
      "1.0 KiB",
      "1.5 KiB",
      "24.0 GiB",
      "150 MiB",
    ]);
    expect([0.25, 5, 59.9, 65, 3600, 90000].map(formatDuration)).toEqual([
      "250 ms",
      "5.0 s",
      "59 s",
      "1 min 05 s",
      "1 h 0 min",
      "1 d 1 h",
    ]);
    expect([0.1234567, 1e-6, 12345678, 0].map((value) => formatNumber(value))).toEqual([
      "0.1235",
      "1.00e-6",
      "1.23e+7",
      "0",
    ]);
    expect([formatMetric("disk_bytes", 1536), formatMetric("loss", 1536)]).toEqual(["1.5 KiB", "1536"]);
    expect(formatMetric("communicated_bytes_total", 1536)).toBe("1.5 KiB");
    expect([formatRange(180, 420), formatRange(40, 120), formatRange(60, 60), formatRange(0.1, 0.2)]).toEqual(
      ["3 to 7 min", "40 s to 2 min", "about 60 s", "under 1 s"],
    );
  });

  it("writes ages", () => {
    const now = Date.parse("2026-11-21T10:00:00.000Z");
    const ago = (seconds: number) => formatAge(new Date(now - seconds * 1000).toISOString(), now);
    expect([2, 30, 60, 7200, 2 * 86400].map(ago)).toEqual([
      "just now",
      "30 seconds ago",
      "1 minute ago",
      "2 hours ago",
      "2 days ago",
    ]);
    expect(ago(30 * 86400)).toBe("22 Oct 2026");
  });
});

describe("the sign-in link", () => {
  it("gives its code and an address without it", () => {
    const place = (pathname: string, search: string, hash: string) => splitCode({ pathname, search, hash });
    expect(place("/", "", "#code=abc")).toEqual({ code: "abc", address: "/" });
    expect(place("/runs", "?q=x&code=abc", "")).toEqual({ code: "abc", address: "/runs?q=x" });
    expect(place("/runs", "?q=x", "#main")).toEqual({ code: null, address: "/runs?q=x#main" });
    expect(place("/", "?code=", "")).toEqual({ code: null, address: "/" });
  });
});

describe("problems", () => {
  it("are read from problem+json", () => {
    const body = { status: 422, code: "empty_file", detail: "a.fa is empty", hint: "choose another" };
    expect(problemFrom(422, body)).toMatchObject({
      status: 422,
      code: "empty_file",
      message: "a.fa is empty",
      hint: "choose another",
    });
  });

  it("are made of anything else, too", () => {
    expect(problemFrom(502, null)).toMatchObject({ code: "http_502", message: "The server answered 502." });
    expect(asProblem(new TypeError("broken"))).toMatchObject({ code: "page_error", message: "broken" });
    const problem = new Problem(503, "unavailable", "later");
    expect(asProblem(problem)).toBe(problem);
    expect([problem.isTransient, new Problem(422, "type", "no").isTransient]).toEqual([true, false]);
  });
});

describe("the same from a terminal", () => {
  const artifact = { digest: "sha256:ab", type: "fasta", size: 1, name: "a.fa", media_type: "text/plain" };

  it("quotes for a shell", () => {
    expect(["plain", "two words", "it's", "$(rm)", ""].map(shellQuote)).toEqual([
      "plain",
      "'two words'",
      "'it'\\''s'",
      "'$(rm)'",
      "''",
    ]);
  });

  it("names inputs, and files as the command line takes them", () => {
    const file = { $artifact: artifact };
    const inputs = { n: 3, title: "two words", file, files: [file, file], list: [1, 2] };
    expect(cliCommand({ workflow: "contacts" }, inputs, "my run")).toBe(
      "foldase run contacts --input n=3 --input 'title=two words' --input file=@a.fa --input files=@a.fa,@a.fa --input 'list=[1,2]' --name 'my run'",
    );
    const curl = curlCommand("http://127.0.0.1:8420", { workflow: "contacts" }, { n: 3 }, "");
    expect(curl).toContain("http://127.0.0.1:8420/api/v1/runs");
    expect(curl).toContain(`-d '{"workflow":"contacts","inputs":{"n":3}}'`);
  });
});

describe("addresses", () => {
  it("keep the filter and drop what makes no sense", () => {
    expect(runsSearch({ state: "failed", q: "x" })).toEqual({ state: "failed", q: "x" });
    expect(runsSearch({ state: "exploded", q: 12 })).toEqual({ state: undefined, q: "12" });
  });
});

describe("findOutputs", () => {
  const item = (type: string, digest: string, output: string, isOutput: boolean) => ({
    step: isOutput ? null : "step",
    output,
    artifact: { digest, type, size: 1, name: output, media_type: "" },
    run_output: isOutput,
  });

  it("sorts by kind, lists the same bytes once and prefers the outputs of the run", () => {
    const found = findOutputs([
      item("predictions", "sha256:1", "predictions", false),
      item("model", "sha256:2", "model", false),
      item("predictions", "sha256:1", "best", true),
      item("table", "sha256:3", "scores", false),
    ]);
    expect(found.predictions.map(({ label }) => label)).toEqual(["best"]);
    expect(found.tables.map(({ label }) => label)).toEqual(["step: scores"]);
    expect([found.structures, found.reports]).toEqual([[], []]);
  });
});

describe("structuresOf", () => {
  const shown = (digest: string, ...steps: string[]) => ({
    label: digest,
    artifact: { digest, type: "", size: 1, name: "", media_type: "" },
    steps,
  });

  it("takes those of the same step, and never those of another", () => {
    const structures = [shown("s1", "predict"), shown("s2", "predict_shuffled")];
    expect(structuresOf(shown("p", "predict_shuffled"), structures)?.label).toBe("s2");
    expect(structuresOf(shown("p", "couple"), structures)).toBeNull();
    expect(structuresOf(shown("p", "couple"), structures.slice(0, 1))).toBeNull();
    expect(structuresOf(shown("p"), [shown("s")])?.label).toBe("s");
  });

  it("knows that two steps may come to the same bytes", () => {
    const both = [shown("s", "predict", "predict_shuffled")];
    expect(structuresOf(shown("p", "predict"), both)?.label).toBe("s");
    expect(structuresOf(shown("q", "predict_shuffled"), both)?.label).toBe("s");
  });
});

describe("readScores", () => {
  const document = {
    precision: {
      L: {
        prior: 0.3,
        model: 0.9,
        couplings_mean_field: 0.5,
        couplings_pseudolikelihood: 0.6,
        couplings: 0.6,
        odd: 1,
      },
      "L/2": { prior: 0.4, model: 0.95 },
    },
    intervals: { L: { model: { mean: 0.9, low: 0.85, high: 0.93 } } },
    bootstrap: {
      model_minus_best_classical: {
        L: { mean: 0.3, low: 0.2, high: 0.4, best: "mi_apc" },
        "L/2": { mean: "x" },
      },
      samples: 10000,
    },
    ablation: {
      L: { shuffled_minus_prior: 0.02, interval: [-0.01, 0.05], model_minus_prior: 0.6, ratio: 0.0333 },
    },
    lddt: 0.8,
    families: 40,
    confidence: { pearson: 0.7, spearman: null },
    schema_version: 1,
    shared_energies: true,
  };

  it("orders methods and keeps unknown ones at the end", () => {
    const scores = readScores(document);
    expect(scores?.cuts).toEqual(["L", "L/2"]);
    expect(scores?.rows.map((row) => row.method)).toEqual([
      "model",
      "couplings_pseudolikelihood",
      "couplings_mean_field",
      "prior",
      "odd",
    ]);
    expect(scores?.rows[0]?.scores).toEqual([
      { value: 0.9, interval: { mean: 0.9, low: 0.85, high: 0.93 } },
      { value: 0.95, interval: null },
    ]);
    expect(scores?.rows[1]?.scores).toEqual([{ value: 0.6, interval: null }, null]);
  });

  it("reads margins, the ablation and the figures that people ask for", () => {
    const scores = readScores(document);
    expect(scores?.margins).toEqual([
      { cut: "L", mean: 0.3, low: 0.2, high: 0.4, note: "best: Mutual information + APC" },
    ]);
    expect(scores?.ablation).toEqual([
      { cut: "L", mean: 0.02, low: -0.01, high: 0.05, note: "3.3 % of the gain" },
    ]);
    expect(scores?.figures.map((figure) => figure.value)).toEqual([40, 0.8, 0.7]);
    expect(scores?.sharesEnergies).toBe(true);
  });

  it("is nothing for other documents", () => {
    for (const other of [null, [], 3, {}, { precision: {} }, { precision: 1 }])
      expect(readScores(other)).toBeNull();
  });
});
