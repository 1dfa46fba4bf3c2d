import { describe, expect, it } from "vitest";

import type { OperatorInfo } from "@/api/types";
import { suggest } from "@/editor/completion";
import { type JsonSchema, keysAt, valuesAt } from "@/editor/schema-walk";
import { placeAt } from "@/editor/yaml-path";
import { makePort } from "./shapes";

const SCHEMA: JsonSchema = {
  properties: {
    version: { const: 1 },
    steps: { additionalProperties: { $ref: "#/$defs/Step" }, description: "what is done" },
    defaults: { anyOf: [{ $ref: "#/$defs/Defaults" }, { type: "null" }] },
  },
  $defs: {
    Step: {
      properties: {
        uses: { type: "string", description: "the operator" },
        with: {},
        cache: { anyOf: [{ type: "boolean" }, { enum: ["refresh"] }] },
      },
    },
    Defaults: { properties: { timeout: { description: "of every step" } } },
  },
};

const OPERATOR: OperatorInfo = {
  reference: "contacts.train@1",
  name: "contacts.train",
  version: 1,
  help: "trains",
  inputs: [makePort("families", "families", { required: true }), makePort("steps", "int")],
  outputs: [makePort("model", "model")],
  resources: {},
  deterministic: true,
  gang: false,
};

const VOCABULARY = { operators: [OPERATOR], schema: SCHEMA };

/** The labels offered where `|` stands in the text. */
function offered(text: string): string[] | null {
  const offset = text.indexOf("|");
  return suggest(text.replace("|", ""), offset, VOCABULARY)?.options.map((option) => option.label) ?? null;
}

/** Path and key where `|` stands. */
function place(text: string) {
  const found = placeAt(text.replace("|", ""), text.indexOf("|"));
  return found && { path: found.path, key: found.key, typed: found.typed };
}

describe("placeAt", () => {
  it("finds keys by indentation", () => {
    expect(place("steps:\n  fold:\n    us|")).toEqual({ path: ["steps", "fold"], key: null, typed: "us" });
    expect(place("steps:\n  fold:\n    uses: con|")).toEqual({
      path: ["steps", "fold"],
      key: "uses",
      typed: "con",
    });
    expect(place("steps:\n  a:\n    uses: x\n  b|")).toEqual({ path: ["steps"], key: null, typed: "b" });
    expect(place("ver|")).toEqual({ path: [], key: null, typed: "ver" });
  });

  it("finds keys inside braces on one line", () => {
    expect(place("steps:\n  a:\n    with: {seed: 1, le|")).toEqual({
      path: ["steps", "a", "with"],
      key: null,
      typed: "le",
    });
    expect(place("inputs:\n  n: {type: in|")).toEqual({ path: ["inputs", "n"], key: "type", typed: "in" });
    expect(place("steps:\n  a:\n    with: {seed: 1}\n    ca|")).toEqual({
      path: ["steps", "a"],
      key: null,
      typed: "ca",
    });
  });

  it("is nowhere inside a comment", () => {
    expect(place("steps: # he|")).toBeNull();
  });
});

describe("suggest", () => {
  it("offers the keys of the schema", () => {
    expect(offered("|")).toEqual(["version", "steps", "defaults"]);
    expect(offered("steps:\n  fold:\n    |")).toEqual(["uses", "with", "cache"]);
    expect(offered("defaults:\n  |")).toEqual(["timeout"]);
  });

  it("offers operators, their inputs and fixed values", () => {
    expect(offered("steps:\n  t:\n    uses: |")).toEqual(["contacts.train@1"]);
    expect(offered("steps:\n  t:\n    uses: contacts.train@1\n    with:\n      |")).toEqual([
      "families",
      "steps",
    ]);
    expect(offered("steps:\n  t:\n    uses: contacts.train@1\n    with: {|")).toEqual(["families", "steps"]);
    expect(offered("steps:\n  t:\n    cache: |")?.sort()).toEqual(["false", "refresh", "true"]);
  });

  it("offers names inside expressions", () => {
    const head =
      "inputs:\n  seed: {type: int}\nsteps:\n  t:\n    uses: contacts.train@1\n  p:\n    with:\n      a: ";
    expect(offered(`${head}\${{ |`)).toEqual(["inputs", "steps", "each"]);
    expect(offered(`${head}\${{ inputs.|`)).toEqual(["seed"]);
    expect(offered(`${head}\${{ steps.|`)).toEqual(["t", "p"]);
    expect(offered(`${head}\${{ steps.t.|`)).toEqual(["model"]);
    expect(offered(`${head}\${{ steps.p.|`)).toBeNull();
  });

  it("replaces only the last part of a name", () => {
    const text = "x: ${{ steps.tr";
    expect(suggest(`steps:\n  train:\n${text}`, `steps:\n  train:\n${text}`.length, VOCABULARY)?.from).toBe(
      `steps:\n  train:\n${text}`.length - "tr".length,
    );
  });
});

describe("reading a schema", () => {
  it("follows references and ends in circles", () => {
    const circle: JsonSchema = {
      $ref: "#/$defs/A",
      $defs: { A: { properties: { a: { $ref: "#/$defs/A" } }, anyOf: [{ $ref: "#/$defs/A" }] } },
    };
    expect(keysAt(circle, ["a", "a", "a"]).map((key) => key.name)).toEqual(["a"]);
    expect(keysAt(SCHEMA, ["nothing", "here"])).toEqual([]);
    expect(valuesAt(SCHEMA, ["version"])).toEqual(["1"]);
  });
});
