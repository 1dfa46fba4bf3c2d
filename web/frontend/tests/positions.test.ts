import { describe, expect, it } from "vitest";

import { offsetOf, spanOf } from "@/editor/positions";

const TEXT = "version: 1\nsteps:\n  fold:\n    uses: nothing@9\n";

function marked(text: string, line?: number, column?: number): string {
  const { from, to } = spanOf(text, { line, column });
  return text.slice(from, to);
}

describe("offsetOf", () => {
  it("counts lines and columns from 1", () => {
    expect(offsetOf(TEXT, 1, 1)).toBe(0);
    expect(offsetOf(TEXT, 2, 1)).toBe(TEXT.indexOf("steps"));
    expect(offsetOf(TEXT, 4, 11)).toBe(TEXT.indexOf("nothing"));
  });

  it("stays inside the text", () => {
    expect(offsetOf(TEXT, 1, 99)).toBe(TEXT.indexOf("\n"));
    expect(offsetOf(TEXT, 99, 1)).toBe(TEXT.length);
    expect(offsetOf("", 3, 3)).toBe(0);
  });

  it("counts characters, not the units they take", () => {
    const text = "name: 🧬x: y";
    expect(text.slice(offsetOf(text, 1, 8))).toBe("x: y");
  });
});

describe("spanOf", () => {
  it("marks the word at the place", () => {
    expect(marked(TEXT, 4, 11)).toBe("nothing@9");
    expect(marked("a: {b: c, d}", 1, 8)).toBe("c");
  });

  it("marks the rest of the line where no word begins", () => {
    expect(marked(TEXT, 4, 10)).toBe(" nothing@9");
  });

  it("marks the line before its end, and something for a fault without a place", () => {
    expect(marked(TEXT, 1, 11)).toBe("version: 1");
    expect(marked(TEXT)).toBe("version:");
  });
});
