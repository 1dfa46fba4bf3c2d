/** Reads what a JSON Schema allows at a path. No validation: the server checks documents. */

export interface JsonSchema {
  $ref?: string;
  $defs?: Record<string, JsonSchema>;
  properties?: Record<string, JsonSchema>;
  additionalProperties?: JsonSchema | boolean;
  patternProperties?: Record<string, JsonSchema>;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
  allOf?: JsonSchema[];
  enum?: unknown[];
  const?: unknown;
  description?: string;
  type?: string | string[];
}

export interface KeyInfo {
  name: string;
  help: string;
}

const MOST_BRANCHES = 64;

/** All alternatives a schema stands for, references followed. */
function alternatives(schema: JsonSchema, root: JsonSchema): JsonSchema[] {
  const found: JsonSchema[] = [];
  const pending = [schema];
  const seen = new Set<JsonSchema>();
  while (pending.length > 0 && seen.size < MOST_BRANCHES) {
    const next = pending.pop() as JsonSchema;
    if (seen.has(next)) continue;
    seen.add(next);
    found.push(next);
    const target = next.$ref?.startsWith("#/$defs/")
      ? root.$defs?.[next.$ref.slice("#/$defs/".length)]
      : undefined;
    pending.push(
      ...(target ? [target] : []),
      ...(next.anyOf ?? []),
      ...(next.oneOf ?? []),
      ...(next.allOf ?? []),
    );
  }
  return found;
}

function child(schema: JsonSchema, key: string): JsonSchema[] {
  const named = schema.properties?.[key];
  if (named) return [named];
  const others = Object.values(schema.patternProperties ?? {});
  return typeof schema.additionalProperties === "object" ? [schema.additionalProperties, ...others] : others;
}

function schemasAt(root: JsonSchema, path: readonly string[]): JsonSchema[] {
  let here = alternatives(root, root);
  for (const key of path) {
    here = here.flatMap((schema) => child(schema, key)).flatMap((schema) => alternatives(schema, root));
  }
  return here;
}

/** The keys that a mapping at the path may have. */
export function keysAt(root: JsonSchema, path: readonly string[]): KeyInfo[] {
  const keys = new Map<string, KeyInfo>();
  for (const schema of schemasAt(root, path)) {
    for (const [name, property] of Object.entries(schema.properties ?? {})) {
      if (keys.has(name)) continue;
      const help = alternatives(property, root).find((one) => one.description)?.description ?? "";
      keys.set(name, { name, help });
    }
  }
  return [...keys.values()];
}

/** The fixed values that may stand at the path. */
export function valuesAt(root: JsonSchema, path: readonly string[]): string[] {
  const values = new Set<string>();
  for (const schema of schemasAt(root, path)) {
    for (const value of schema.enum ?? []) values.add(String(value));
    if (schema.const !== undefined) values.add(String(schema.const));
    if (schema.type === "boolean") ["true", "false"].forEach((word) => values.add(word));
  }
  return [...values];
}
