/** From what stands in a form to the inputs of a run, and back. Pure: no React, no network. */
import { type Artifact, isArtifactValue, type Port } from "@/api/types";
import { isFileType, isTreeType, itemType, type RawValue, type RawValues } from "./types";

export interface Reading {
  /** Only what differs from the defaults: the server fills in the rest. */
  inputs: Record<string, unknown>;
  errors: Record<string, string>;
}

class Invalid extends Error {}

/** Reads all fields; `errors` has one message for each field that cannot be used. */
export function readInputs(ports: readonly Port[], raw: RawValues): Reading {
  const reading: Reading = { inputs: {}, errors: {} };
  for (const port of ports) {
    try {
      const value = readField(port, raw[port.name] ?? null);
      if (value === undefined) {
        if (port.required) reading.errors[port.name] = missing(port.type);
      } else if (port.required || !sameJson(value, port.default)) {
        reading.inputs[port.name] = value;
      }
    } catch (error) {
      if (!(error instanceof Invalid)) throw error;
      reading.errors[port.name] = error.message;
    }
  }
  return reading;
}

/** What the fields hold at first: the defaults, overlaid with the inputs of an earlier run. */
export function initialValues(ports: readonly Port[], inputs: Record<string, unknown> = {}): RawValues {
  return Object.fromEntries(
    ports.map((port) => [port.name, toRaw(port, port.name in inputs ? inputs[port.name] : port.default)]),
  );
}

function missing(type: string): string {
  if (type === "weights") return "Choose weights.";
  return isUploaded(type) ? "Add a file." : "Fill this in.";
}

function isUploaded(type: string): boolean {
  const single = itemType(type) ?? type;
  return isFileType(single) || isTreeType(single);
}

function toRaw(port: Port, value: unknown): RawValue {
  const item = itemType(port.type);
  if (isUploaded(port.type)) {
    if (item) return Array.isArray(value) ? value.filter(isArtifactValue).map((one) => one.$artifact) : [];
    return isArtifactValue(value) ? value.$artifact : null;
  }
  if (port.type === "bool") return value === true;
  if (value === null || value === undefined) return "";
  if (port.choices?.length) return JSON.stringify(value);
  if (item && Array.isArray(value)) return value.map((one) => toText(item, one)).join("\n");
  return toText(port.type, value);
}

function toText(type: string, value: unknown): string {
  // An earlier run holds what became of the name of its weights.
  if (type === "weights" && isArtifactValue(value)) return value.$artifact.name;
  return type === "json" || type === "any" || typeof value === "object"
    ? JSON.stringify(value)
    : String(value);
}

/** The value of one field; undefined where nothing was entered. */
function readField(port: Port, raw: RawValue): unknown {
  const item = itemType(port.type);
  if (isUploaded(port.type)) return readArtifacts(port, raw, item !== null);
  if (typeof raw === "boolean") return raw;
  const text = typeof raw === "string" ? raw.trim() : "";
  if (text === "") return undefined;
  if (port.choices?.length) return JSON.parse(text) as unknown;
  if (item) {
    const values = splitList(text).map((one) => readScalar(item, one));
    checkLength(port, values.length, "item");
    return values;
  }
  const value = readScalar(port.type, text);
  if (typeof value === "number") checkRange(port, value);
  if (typeof value === "string") checkLength(port, value.length, "character");
  return value;
}

function readArtifacts(port: Port, raw: RawValue, many: boolean): unknown {
  if (many) {
    const artifacts = Array.isArray(raw) ? raw : [];
    if (artifacts.length === 0) return undefined;
    checkLength(port, artifacts.length, "file");
    return artifacts.map((artifact) => ({ $artifact: artifact }));
  }
  return raw !== null && typeof raw === "object" ? { $artifact: raw as Artifact } : undefined;
}

/** Items stand one per line, or separated by commas. */
function splitList(text: string): string[] {
  return text
    .split(/[\n,]/)
    .map((item) => item.trim())
    .filter((item) => item !== "");
}

function readScalar(type: string, text: string): unknown {
  if (type === "int") {
    const value = Number(text);
    if (!/^[+-]?\d+$/.test(text) || !Number.isSafeInteger(value)) {
      throw new Invalid(`"${text}" is not a whole number.`);
    }
    return value;
  }
  if (type === "float") {
    const value = Number(text);
    if (!Number.isFinite(value)) throw new Invalid(`"${text}" is not a number.`);
    return value;
  }
  if (type === "bool") {
    if (text !== "true" && text !== "false") throw new Invalid(`"${text}" is neither true nor false.`);
    return text === "true";
  }
  if (type === "json" || type === "any") {
    try {
      return JSON.parse(text) as unknown;
    } catch {
      throw new Invalid("This is not valid JSON.");
    }
  }
  return text;
}

function checkRange(port: Port, value: number): void {
  const { min, max, above, below } = port.limits ?? {};
  if (min !== undefined && value < min) throw new Invalid(`At least ${min}.`);
  if (max !== undefined && value > max) throw new Invalid(`At most ${max}.`);
  if (above !== undefined && value <= above) throw new Invalid(`More than ${above}.`);
  if (below !== undefined && value >= below) throw new Invalid(`Less than ${below}.`);
}

function checkLength(port: Port, length: number, unit: string): void {
  const { min_length: low, max_length: high } = port.limits ?? {};
  if (low !== undefined && length < low) throw new Invalid(`At least ${count(low, unit)}.`);
  if (high !== undefined && length > high) throw new Invalid(`At most ${count(high, unit)}.`);
}

function count(number: number, unit: string): string {
  return `${number} ${unit}${number === 1 ? "" : "s"}`;
}

/** The limits of a port in words: "1 to 2000", "at most 80 characters"; empty without limits. */
export function limitsText(port: Port): string {
  const { min, max, above, below, min_length: low, max_length: high } = port.limits ?? {};
  const parts: string[] = [];
  if (min !== undefined && max !== undefined) parts.push(`${min} to ${max}`);
  else if (min !== undefined) parts.push(`at least ${min}`);
  else if (max !== undefined) parts.push(`at most ${max}`);
  if (above !== undefined) parts.push(`more than ${above}`);
  if (below !== undefined) parts.push(`less than ${below}`);
  const unit = itemType(port.type) ? (isUploaded(port.type) ? "file" : "item") : "character";
  if (low !== undefined) parts.push(`at least ${count(low, unit)}`);
  if (high !== undefined) parts.push(`at most ${count(high, unit)}`);
  return parts.join(", ");
}

function sameJson(left: unknown, right: unknown): boolean {
  return JSON.stringify(left) === JSON.stringify(right);
}
