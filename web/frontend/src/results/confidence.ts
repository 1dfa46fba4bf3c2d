/** Confidence per residue, 0 to 100, in the bands of AlphaFold DB. A value on an edge belongs to the lower band. */

export interface Band {
  name: string;
  range: string;
  colour: string;
}

export const BANDS = [
  { name: "Very high", range: "above 90", colour: "#0053d6" },
  { name: "Confident", range: "70 to 90", colour: "#65cbf3" },
  { name: "Low", range: "50 to 70", colour: "#ffdb13" },
  { name: "Very low", range: "50 and less", colour: "#ff7d45" },
] as const satisfies Band[];

/** The band of a value. */
export function bandOf(value: number): Band {
  if (value <= 50) return BANDS[3];
  if (value <= 70) return BANDS[2];
  return value <= 90 ? BANDS[1] : BANDS[0];
}

/** Mean of finite values; null where there are none. */
export function mean(values: ArrayLike<number>): number | null {
  let sum = 0;
  let count = 0;
  for (let index = 0; index < values.length; index += 1) {
    const value = values[index] as number;
    if (!Number.isFinite(value)) continue;
    sum += value;
    count += 1;
  }
  return count > 0 ? sum / count : null;
}
