/** Between the server's places (line and column from 1, columns in characters) and offsets in a text. */
import type { Fault } from "@/api/types";

/** The offset of a line and a column, brought back into the text where they lie outside it. */
export function offsetOf(text: string, line: number, column: number): number {
  let start = 0;
  for (let current = 1; current < line; current += 1) {
    const end = text.indexOf("\n", start);
    if (end === -1) return text.length;
    start = end + 1;
  }
  const end = text.indexOf("\n", start);
  const stop = end === -1 ? text.length : end;
  // The server counts characters; a character beyond the basic plane takes two units here.
  let offset = start;
  for (let current = 1; current < column && offset < stop; current += 1) {
    offset += (text.codePointAt(offset) ?? 0) > 0xffff ? 2 : 1;
  }
  return Math.min(offset, stop);
}

export interface Span {
  from: number;
  to: number;
}

/** The span to underline for a fault: from its place to the end of the word; the first line without a place. */
export function spanOf(text: string, location: Fault["location"]): Span {
  const from = offsetOf(text, location?.line ?? 1, location?.column ?? 1);
  const rest = /^[^\s,}\]]+/.exec(text.slice(from))?.[0] ?? "";
  const to = from + rest.length;
  if (to > from) return { from, to };
  const lineEnd = text.indexOf("\n", from);
  const end = lineEnd === -1 ? text.length : lineEnd;
  if (end > from) return { from, to: end };
  const lineStart = text.lastIndexOf("\n", from - 1) + 1;
  return { from: lineStart, to: end };
}
