/** Outputs of a run that are plain values, sorted into what can be compared and what stands alone. Pure. */
import { isArtifactValue } from "@/api/types";

export interface NumberTable {
  columns: string[];
  rows: { name: string; numbers: number[] }[];
}

export interface RunValues {
  /** Outputs with the same names for their numbers, for instance the scores of several trainings. */
  tables: NumberTable[];
  others: [name: string, value: unknown][];
}

/** The values among the outputs of a run, in its order; artifacts are shown elsewhere. */
export function readValues(outputs: Record<string, unknown> | null | undefined): RunValues {
  const found: RunValues = { tables: [], others: [] };
  const known = new Map<string, NumberTable>();
  for (const [name, value] of Object.entries(outputs ?? {})) {
    if (value == null || holdsArtifacts(value)) continue;
    const fields = numbersOf(value);
    if (!fields) {
      found.others.push([name, value]);
      continue;
    }
    const columns = fields.map(([column]) => column);
    const key = JSON.stringify(columns);
    let table = known.get(key);
    if (!table) {
      table = { columns, rows: [] };
      known.set(key, table);
      found.tables.push(table);
    }
    table.rows.push({ name, numbers: fields.map(([, number]) => number) });
  }
  return found;
}

function numbersOf(value: unknown): [string, number][] | null {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return null;
  const fields = Object.entries(value);
  return fields.length > 0 && fields.every(([, one]) => typeof one === "number") ? fields : null;
}

function holdsArtifacts(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  return isArtifactValue(value) || Object.values(value).some(holdsArtifacts);
}
