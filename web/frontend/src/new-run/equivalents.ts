/** The same submission from a terminal. Pure text. */
import { isArtifactValue } from "@/api/types";
import type { Subject } from "./draft";

const SAFE_WORD = /^[\w@%+=:,./-]+$/;

/** Quotes a word for a POSIX shell. */
export function shellQuote(word: string): string {
  return SAFE_WORD.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

function cliValue(value: unknown): string {
  if (isArtifactValue(value)) return `@${value.$artifact.name}`;
  if (Array.isArray(value) && value.some(isArtifactValue)) return value.map(cliValue).join(",");
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** `foldase run …` with the same inputs. Files and the document are taken from the present folder. */
export function cliCommand(subject: Subject, inputs: Record<string, unknown>, name: string): string {
  const what = "workflow" in subject ? subject.workflow : "workflow.yaml";
  const words = ["foldase", "run", what];
  for (const [input, value] of Object.entries(inputs)) words.push("--input", `${input}=${cliValue(value)}`);
  if (name) words.push("--name", name);
  return words.map(shellQuote).join(" ");
}

/** The request that this page would make, with the token of the state folder. */
export function curlCommand(
  origin: string,
  subject: Subject,
  inputs: Record<string, unknown>,
  name: string,
): string {
  const body = JSON.stringify({ ...subject, inputs, ...(name ? { name } : {}) });
  return [
    `curl -X POST ${origin}/api/v1/runs`,
    `  -H "Authorization: Bearer $(cat .foldase/token)"`,
    `  -H "Content-Type: application/json"`,
    `  -H "Idempotency-Key: $(uuidgen)"`,
    `  -d ${shellQuote(body)}`,
  ].join(" \\\n");
}
