/** From reported points to curves that can be drawn. */
import type { MetricPoint } from "@/api/types";

export interface Curve {
  name: string;
  xs: number[];
  ys: (number | null)[];
  /** The last value that is a number. */
  last: number | null;
}

/** One curve a name, in the order in which names appear; a point without a position counts on from the last. */
export function toCurves(points: readonly MetricPoint[]): Curve[] {
  const curves = new Map<string, Curve>();
  let position = -1;
  for (const point of points) {
    position = point.at ?? position + 1;
    for (const [name, value] of Object.entries(point.values)) {
      let curve = curves.get(name);
      if (!curve) {
        curve = { name, xs: [], ys: [], last: null };
        curves.set(name, curve);
      }
      append(curve, position, value);
    }
  }
  return [...curves.values()];
}

function append(curve: Curve, x: number, value: number | null): void {
  const previous = curve.xs[curve.xs.length - 1];
  if (previous !== undefined && x < previous) {
    // A retry began again from an earlier checkpoint: what it computes anew replaces what was there.
    const keep = curve.xs.findIndex((known) => known >= x);
    curve.xs.length = keep;
    curve.ys.length = keep;
  }
  curve.xs.push(x);
  curve.ys.push(value);
  if (value !== null) curve.last = value;
}

/** Whether a logarithmic axis can show anything of a curve. */
export function hasPositive(curve: Curve): boolean {
  return curve.ys.some((value) => value !== null && value > 0);
}

/** Values for a logarithmic axis: what is not positive becomes a gap. */
export function forLog(ys: readonly (number | null)[]): (number | null)[] {
  return ys.map((value) => (value !== null && value > 0 ? value : null));
}
