/** The same submission from a terminal. Pure text. */
import { isArtifactValue } from "@/api/types";
import type { Subject } from "./draft";

const SAFE_WORD = /^[\w@%+=:,./-]+$/;

/** Quotes a word for a POSIX shell. */
export function shellQuote(word: string): string {
  return SAFE_WORD.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

function cliValue(value: unknown): string {
  if (isArtifactValue(value)) return value.$artifact.digest;
  if (Array.isArray(value))
    return JSON.stringify(value.map((one) => (isArtifactValue(one) ? one.$artifact.digest : one)));
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** `foldase run …` with the same inputs. A document is taken from a file of its name. */
export function cliCommand(subject: Subject, inputs: Record<string, unknown>, name: string): string {
  const what = "workflow" in subject ? subject.workflow : "workflow.yaml";
  const words = ["foldase", "run", what];
  for (const [input, value] of Object.entries(inputs)) words.push("--input", `${input}=${cliValue(value)}`);
  if (name) words.push("--name", name);
  return words.map(shellQuote).join(" ");
}

/** The request that this page would make, with the token taken from the environment. */
export function curlCommand(
  origin: string,
  subject: Subject,
  inputs: Record<string, unknown>,
  name: string,
): string {
  const body = JSON.stringify({ ...subject, inputs, ...(name ? { name } : {}) });
  return [
    `curl -X POST ${origin}/api/v1/runs`,
    `  -H "Authorization: Bearer $FOLDASE_TOKEN"`,
    `  -H "Content-Type: application/json"`,
    `  -H "Idempotency-Key: $(uuidgen)"`,
    `  -d ${shellQuote(body)}`,
  ].join(" \\\n");
}
