/** Reads one text from the search parameters of an address; anything else counts as absent. */
export function textParam(search: Record<string, unknown>, name: string): string | undefined {
  const value = search[name];
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  return typeof value === "string" && value !== "" ? value : undefined;
}

/** Reads one of a few words; anything else counts as absent. */
export function choiceParam<T extends string>(
  search: Record<string, unknown>,
  name: string,
  choices: readonly T[],
): T | undefined {
  return choices.find((choice) => choice === search[name]);
}
