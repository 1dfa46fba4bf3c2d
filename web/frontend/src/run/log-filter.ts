import type { LogLine } from "@/api/types";

export const LEVELS = ["debug", "info", "warning", "error"] as const;
export type Level = (typeof LEVELS)[number];

/** Lines at or above a level that contain a text, whatever its case. Unknown levels count as info. */
export function filterLines(lines: readonly LogLine[], least: Level, text: string): readonly LogLine[] {
  const needle = text.trim().toLowerCase();
  const threshold = LEVELS.indexOf(least);
  if (threshold === 0 && needle === "") return lines;
  return lines.filter((line) => {
    const found = LEVELS.indexOf(line.level as Level);
    const level = found === -1 ? 1 : found;
    return level >= threshold && (needle === "" || line.message.toLowerCase().includes(needle));
  });
}

/** A message cut at the places where a text occurs: every second part is a match. */
export function splitAtMatches(message: string, text: string): string[] {
  const needle = text.trim().toLowerCase();
  if (needle === "") return [message];
  const parts: string[] = [];
  const lower = message.toLowerCase();
  let from = 0;
  for (;;) {
    const at = lower.indexOf(needle, from);
    if (at === -1) break;
    parts.push(message.slice(from, at), message.slice(at, at + needle.length));
    from = at + needle.length;
  }
  parts.push(message.slice(from));
  return parts;
}
