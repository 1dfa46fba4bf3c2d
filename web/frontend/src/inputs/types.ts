import type { Artifact } from "@/api/types";

/** What a field holds before it is checked: text as typed, a switch, uploaded artifacts. */
export type RawValue = string | boolean | Artifact | Artifact[] | null;

export type RawValues = Record<string, RawValue>;

const FILES = new Set(["file", "fasta", "alignment", "structure", "report", "table"]);
const TREES = new Set(["tree", "msa", "families", "model", "predictions", "structures"]);

/** The item type of `list[...]`; null for all other types. */
export function itemType(type: string): string | null {
  return /^list\[(.*)\]$/.exec(type)?.[1] ?? null;
}

/** Whether values of the type are single files, which a browser can upload. */
export function isFileType(type: string): boolean {
  return FILES.has(type);
}

/** Whether values of the type are folders of files, which only steps of a run make. */
export function isTreeType(type: string): boolean {
  return TREES.has(type);
}
