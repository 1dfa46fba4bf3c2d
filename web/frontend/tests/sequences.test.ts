import { describe, expect, it } from "vitest";

import { inspectSequences } from "@/inputs/sequences";

describe("inspectSequences", () => {
  it("counts records and lengths of FASTA", () => {
    expect(inspectSequences(">a\nMKV\n>b\nMKVLA\n", "fasta")).toEqual({
      summary: "2 sequences, 3 to 5 residues.",
      warnings: [],
    });
    expect(inspectSequences(">a\r\nMKV\r\n", "fasta").summary).toBe("1 sequence, 3 residues.");
  });

  it("counts columns of an alignment without insertions", () => {
    const a3m = ">q\nMK-V\n>h\nMKaaAV\n";
    expect(inspectSequences(a3m, "alignment")).toEqual({ summary: "2 sequences, 4 columns.", warnings: [] });
  });

  it("names the place of what looks wrong", () => {
    expect(inspectSequences(">a\nMK1V\n", "fasta").warnings).toEqual([
      "line 2, column 3: '1' is no residue (a).",
    ]);
    expect(inspectSequences(">a\nMK*\n", "fasta").warnings[0]).toContain("stop codon");
    expect(inspectSequences(">a\n>b\nMK\n", "fasta").warnings).toEqual(["line 1: a has no sequence."]);
    expect(inspectSequences(">a\nMKV\n>b\nMK\n", "alignment").warnings).toEqual([
      "line 3: b has 2 columns, the first row has 3.",
    ]);
  });

  it("knows other formats by their first line, and what is none", () => {
    expect(inspectSequences("# STOCKHOLM 1.0\n", "alignment").summary).toBe("A Stockholm alignment.");
    expect(inspectSequences("CLUSTAL W\n", "alignment").summary).toBe("A Clustal alignment.");
    expect(inspectSequences("hello\n", "fasta").warnings).toHaveLength(1);
    expect(inspectSequences(" \n", "fasta").summary).toBe("The file is empty.");
  });

  it("stops after a few warnings", () => {
    expect(inspectSequences(`>a\n${"1".repeat(500)}\n`, "fasta").warnings).toHaveLength(5);
  });
});
