/** What can be written at a place of a workflow document. */
import type { OperatorInfo } from "@/api/types";
import { type JsonSchema, keysAt, valuesAt } from "./schema-walk";
import { childKeys, operatorOf, type Place, placeAt } from "./yaml-path";

export interface Suggestion {
  label: string;
  /** What is inserted, where it differs from the label. */
  insert?: string;
  detail?: string;
  kind: "key" | "value" | "operator" | "reference";
}

export interface Suggestions {
  from: number;
  options: Suggestion[];
}

export interface Vocabulary {
  operators: readonly OperatorInfo[];
  schema: JsonSchema | null;
}

const OPEN_EXPRESSION = /\$\{\{([^}]*)$/;

/** Suggestions at an offset; null where there are none. */
export function suggest(text: string, offset: number, vocabulary: Vocabulary): Suggestions | null {
  const line = text.slice(text.lastIndexOf("\n", offset - 1) + 1, offset);
  const expression = OPEN_EXPRESSION.exec(line)?.[1];
  if (expression !== undefined) return suggestReference(text, offset, expression, vocabulary);
  const place = placeAt(text, offset);
  if (!place) return null;
  const options = place.key === null ? keysFor(text, place, vocabulary) : valuesFor(place, vocabulary);
  return options.length > 0 ? { from: place.from, options } : null;
}

function keysFor(text: string, place: Place, { operators, schema }: Vocabulary): Suggestion[] {
  const [root, step, field] = place.path;
  if (root === "steps" && step !== undefined && field === "with" && place.path.length === 3) {
    const operator = operators.find((one) => one.reference === operatorOf(text, step));
    return (operator?.inputs ?? []).map((port) => ({
      label: port.name,
      insert: `${port.name}: `,
      detail: [port.type, port.required ? "needed" : ""].filter(Boolean).join(", "),
      kind: "key",
    }));
  }
  if (!schema) return [];
  return keysAt(schema, place.path).map(({ name, help }) => ({
    label: name,
    insert: `${name}: `,
    detail: help,
    kind: "key",
  }));
}

function valuesFor(place: Place, { operators, schema }: Vocabulary): Suggestion[] {
  if (place.path[0] === "steps" && place.path.length === 2 && place.key === "uses") {
    return operators.map(({ reference, help }) => ({ label: reference, detail: help, kind: "operator" }));
  }
  if (!schema || place.key === null) return [];
  return valuesAt(schema, [...place.path, place.key]).map((value) => ({ label: value, kind: "value" }));
}

function suggestReference(
  text: string,
  offset: number,
  expression: string,
  { operators }: Vocabulary,
): Suggestions | null {
  const typed = /[\w.-]*$/.exec(expression)?.[0] ?? "";
  const parts = typed.split(".");
  const last = parts[parts.length - 1] ?? "";
  const options = namesAfter(text, parts.slice(0, -1), operators).map((name) => ({
    label: name,
    kind: "reference" as const,
  }));
  return options.length > 0 ? { from: offset - last.length, options } : null;
}

function namesAfter(text: string, before: string[], operators: readonly OperatorInfo[]): string[] {
  const [root, step] = before;
  if (root === undefined) return ["inputs", "steps", "each"];
  if (root === "inputs" && before.length === 1) return childKeys(text, "inputs");
  if (root === "steps" && before.length === 1) return childKeys(text, "steps");
  if (root === "steps" && step !== undefined && before.length === 2) {
    const reference = operatorOf(text, step);
    return operators.find((one) => one.reference === reference)?.outputs.map((port) => port.name) ?? [];
  }
  return [];
}
