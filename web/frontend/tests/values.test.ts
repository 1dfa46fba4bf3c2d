import { describe, expect, it } from "vitest";

import type { Artifact } from "@/api/types";
import { initialValues, limitsText, readInputs } from "@/inputs/values";
import { makePort } from "./shapes";

const FILE: Artifact = {
  digest: "sha256:ab",
  type: "fasta",
  size: 3,
  name: "a.fa",
  media_type: "text/x-fasta",
};

function read(type: string, raw: Parameters<typeof readInputs>[1][string], rest = {}) {
  const port = makePort("x", type, { required: true, ...rest });
  const { inputs, errors } = readInputs([port], { x: raw });
  return errors.x ?? inputs.x;
}

describe("readInputs", () => {
  it("reads each type", () => {
    expect(read("int", " 12 ")).toBe(12);
    expect(read("int", "-3")).toBe(-3);
    expect(read("float", "1e-3")).toBe(0.001);
    expect(read("bool", false)).toBe(false);
    expect(read("text", " two words ")).toBe("two words");
    expect(read("list[int]", "1, 2\n3")).toEqual([1, 2, 3]);
    expect(read("list[text]", "a\n\nb")).toEqual(["a", "b"]);
    expect(read("json", '{"a": [1]}')).toEqual({ a: [1] });
    expect(read("fasta", FILE)).toEqual({ $artifact: FILE });
    expect(read("list[fasta]", [FILE, FILE])).toEqual([{ $artifact: FILE }, { $artifact: FILE }]);
    expect(read("weights", "esmfold_v1")).toBe("esmfold_v1");
    expect(read("text", '"mean_field"', { choices: ["mean_field", "plm"] })).toBe("mean_field");
  });

  it("says what is wrong with a value", () => {
    expect(read("int", "1.5")).toBe('"1.5" is not a whole number.');
    expect(read("int", "9007199254740993")).toBe('"9007199254740993" is not a whole number.');
    expect(read("float", "NaN")).toBe('"NaN" is not a number.');
    expect(read("float", "Infinity")).toBe('"Infinity" is not a number.');
    expect(read("list[int]", "1, two")).toBe('"two" is not a whole number.');
    expect(read("json", "{")).toBe("This is not valid JSON.");
  });

  it("keeps limits", () => {
    const limits = { min: 1, max: 5 };
    expect(read("int", "1", { limits })).toBe(1);
    expect(read("int", "0", { limits })).toBe("At least 1.");
    expect(read("int", "6", { limits })).toBe("At most 5.");
    expect(read("float", "0", { limits: { above: 0 } })).toBe("More than 0.");
    expect(read("float", "1", { limits: { below: 1 } })).toBe("Less than 1.");
    expect(read("text", "ab", { limits: { min_length: 3 } })).toBe("At least 3 characters.");
    expect(read("list[int]", "1", { limits: { min_length: 2 } })).toBe("At least 2 items.");
  });

  it("asks for what is required and leaves out what is not given", () => {
    const ports = [
      makePort("n", "int", { required: true }),
      makePort("f", "alignment", { required: true }),
      makePort("optional", "text"),
      makePort("files", "list[file]", { default: [] }),
    ];
    expect(readInputs(ports, { n: "", f: null, optional: "", files: [] })).toEqual({
      inputs: {},
      errors: { n: "Fill this in.", f: "Add a file." },
    });
  });

  it("sends only what differs from the defaults", () => {
    const ports = [
      makePort("a", "int", { default: 3 }),
      makePort("b", "bool", { default: true }),
      makePort("c", "list[int]", { default: [1, 2] }),
    ];
    expect(readInputs(ports, initialValues(ports)).inputs).toEqual({});
    expect(readInputs(ports, { a: "4", b: false, c: "1,2" }).inputs).toEqual({ a: 4, b: false });
  });
});

describe("initialValues", () => {
  it("comes back to the inputs of an earlier run", () => {
    const ports = [
      makePort("n", "int", { default: 3 }),
      makePort("way", "text", { default: "a", choices: ["a", "b"] }),
      makePort("seeds", "list[int]", { default: [1] }),
      makePort("file", "fasta", { required: true }),
      makePort("extra", "json"),
    ];
    const inputs = { n: 7, way: "b", seeds: [4, 5], file: { $artifact: FILE }, extra: { k: 1 } };
    expect(readInputs(ports, initialValues(ports, inputs))).toEqual({ inputs, errors: {} });
  });
});

describe("weights of an earlier run", () => {
  it("are chosen by their name again", () => {
    const port = makePort("weights", "weights", { required: true });
    const weights = { $artifact: { ...FILE, type: "weights", name: "esmfold_v1" } };
    expect(initialValues([port], { weights })).toEqual({ weights: "esmfold_v1" });
    expect(readInputs([port], { weights: "" }).errors).toEqual({ weights: "Choose weights." });
  });
});

describe("limitsText", () => {
  it("puts limits into words", () => {
    expect(limitsText(makePort("x", "int", { limits: { min: 1, max: 9 } }))).toBe("1 to 9");
    expect(limitsText(makePort("x", "text", { limits: { max_length: 1 } }))).toBe("at most 1 character");
    expect(limitsText(makePort("x", "list[fasta]", { limits: { min_length: 2 } }))).toBe("at least 2 files");
    expect(limitsText(makePort("x", "int"))).toBe("");
  });
});
