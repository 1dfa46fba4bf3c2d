/** Weights as the options of a choice. Pure: no React, no network. */
import type { Weights } from "@/api/types";
import { formatBytes } from "@/ui/format";

export interface Option {
  value: string;
  label: string;
  disabled?: boolean;
}

/** One option for each; what was chosen stays visible when it is not there (any more). */
export function weightsOptions(items: readonly Weights[], chosen: string): Option[] {
  const options = items.map((item) => ({
    value: item.name,
    label: labelOf(item),
    disabled: item.state === "refused" && item.name !== chosen,
  }));
  const known = chosen === "" || items.some(({ name }) => name === chosen);
  return known ? options : [...options, { value: chosen, label: `${chosen} (not there)` }];
}

function labelOf({ name, kind, size, state, progress }: Weights): string {
  if (state === "refused") return `${name} (cannot be used)`;
  const facts = [kind, formatBytes(size)].filter(Boolean);
  if (state === "reading") facts.push(`being read for the first time, ${Math.floor(progress * 100)} %`);
  if (state === "waiting") facts.push("waits to be read for the first time");
  return `${name} (${facts.join(", ")})`;
}
