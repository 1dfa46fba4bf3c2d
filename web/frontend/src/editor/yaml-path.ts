/** Where in a YAML document the cursor stands, by indentation: enough for completion, with no parser. */

export interface Place {
  /** Keys from the root to the mapping that the cursor is in. */
  path: string[];
  /** The key whose value is being written, null while a key is being written. */
  key: string | null;
  /** What has been typed of the present key or value. */
  typed: string;
  /** Offset at which `typed` begins. */
  from: number;
}

interface KeyLine {
  indent: number;
  key: string;
}

const KEY_LINE = /^(\s*)(?:- )?([\w.-]+|"[^"]*"|'[^']*')\s*:(?:\s|$)/;

function keyLine(line: string): KeyLine | null {
  const match = KEY_LINE.exec(line);
  return match ? { indent: (match[1] ?? "").length, key: unquote(match[2] ?? "") } : null;
}

function unquote(text: string): string {
  return text.replace(/^(["'])(.*)\1$/, "$2");
}

/** The keys of the mappings around a line: each nearest line above with a smaller indentation. */
function ancestors(lines: string[], below: number, indent: number): string[] {
  const path: string[] = [];
  let limit = indent;
  for (let index = below - 1; index >= 0 && limit > 0; index -= 1) {
    const line = lines[index] ?? "";
    if (line.trim() === "" || line.trimStart().startsWith("#")) continue;
    const found = keyLine(line);
    if (found && found.indent < limit) {
      path.unshift(found.key);
      limit = found.indent;
    }
  }
  return path;
}

/** Where the cursor stands; null inside a comment. */
export function placeAt(text: string, offset: number): Place | null {
  const lines = text.slice(0, offset).split("\n");
  const line = lines[lines.length - 1] ?? "";
  if (/(^|\s)#/.test(line)) return null;
  const indent = line.length - line.trimStart().length;
  const path = ancestors(lines, lines.length - 1, indent);
  return placeInLine(line.slice(indent), path, offset);
}

function placeInLine(content: string, path: string[], offset: number): Place {
  const braces = openBraces(content);
  if (braces) {
    const entry = braces.entry;
    return placeInEntry(entry, [...path, ...braces.keys], offset);
  }
  return placeInEntry(content, path, offset);
}

function placeInEntry(entry: string, path: string[], offset: number): Place {
  const colon = /^(?:- )?([\w.-]+)\s*:\s+/.exec(entry);
  if (colon) {
    const typed = entry.slice(colon[0].length);
    return { path, key: colon[1] ?? null, typed, from: offset - typed.length };
  }
  const typed = entry.replace(/^- /, "");
  return { path, key: null, typed, from: offset - typed.length };
}

/** For `with: {a: 1, b` : the keys that opened braces, and the entry after the last comma. */
function openBraces(content: string): { keys: string[]; entry: string } | null {
  const masked = content.replace(/\$\{\{.*?(\}\}|$)/g, (match) => " ".repeat(match.length));
  const keys: string[] = [];
  let start = 0;
  let entryStart = -1;
  for (let index = 0; index < masked.length; index += 1) {
    const letter = masked[index];
    if (letter === "{") {
      const key = /([\w.-]+)\s*:\s*$/.exec(masked.slice(start, index))?.[1];
      if (key === undefined) return null;
      keys.push(key);
      start = entryStart = index + 1;
    } else if (letter === "}") {
      keys.pop();
      start = entryStart = index + 1;
    } else if (letter === "," && keys.length > 0) {
      start = entryStart = index + 1;
    }
  }
  if (keys.length === 0) return null;
  return { keys, entry: content.slice(entryStart).trimStart() };
}

/** Names directly under a top-level key, for example of the inputs or of the steps. */
export function childKeys(text: string, parent: string): string[] {
  const names: string[] = [];
  let inside = false;
  let depth: number | null = null;
  for (const line of text.split("\n")) {
    const found = keyLine(line);
    if (!found) continue;
    if (found.indent === 0) {
      inside = found.key === parent;
      depth = null;
    } else if (inside) {
      depth ??= found.indent;
      if (found.indent === depth) names.push(found.key);
    }
  }
  return names;
}

/** The operator that a step uses, as written; null where it says none. */
export function operatorOf(text: string, step: string): string | null {
  let inSteps = false;
  let current: string | null = null;
  let depth: number | null = null;
  for (const line of text.split("\n")) {
    const found = keyLine(line);
    if (!found) continue;
    if (found.indent === 0) {
      inSteps = found.key === "steps";
      depth = null;
    } else if (inSteps) {
      depth ??= found.indent;
      if (found.indent === depth) current = found.key;
      const uses = /\buses\s*:\s*["']?([\w.@-]+)/.exec(line);
      if (current === step && uses) return uses[1] ?? null;
    }
  }
  return null;
}
