import "uplot/dist/uPlot.min.css";

import { useComputedColorScheme } from "@mantine/core";
import { useEffect, useRef, useState } from "react";
import uPlot from "uplot";

import { formatMetric, formatNumber, isBytes } from "@/ui/format";
import { type Curve, forLog, hasPositive } from "./curves-data";
import classes from "./curves.module.css";

const HEIGHT = 150;
const LOGARITHMIC = 3;
/** Above and below a curve, as a share of its height. */
const ROOM = 0.1;
/** Lines lie at round numbers: with fewer digits one of them would have a wrong label. */
const TICK_DIGITS = 6;
/** Distances of lines that are round in binary units. */
const BINARY = Array.from({ length: 60 }, (_, power) => 2 ** power);

function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** A single value makes no line: it is shown as a point. */
function isAlone(plot: uPlot): boolean {
  return plot.data[0].length === 1;
}

/** From the lowest to the highest value with room around them; what is always 0 needs little. */
function heights(_: uPlot, low: number | null, high: number | null): uPlot.Range.MinMax {
  if (low === null || high === null) return [null, null];
  return low === 0 && high === 0 ? [0, 1] : uPlot.rangeNum(low, high, ROOM, true);
}

function options(
  name: string,
  width: number,
  log: boolean,
  onHover: (index: number | null) => void,
): uPlot.Options {
  const axis: uPlot.Axis = {
    stroke: colour("--muted"),
    font: "11px Inter, sans-serif",
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
  };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false } },
    scales: { x: { time: false }, y: log ? { distr: LOGARITHMIC } : { range: heights } },
    axes: [
      { ...axis, size: 24 },
      {
        ...axis,
        size: 60,
        ...(isBytes(name) && !log ? { incrs: BINARY } : {}),
        values: (_, ticks) =>
          ticks.map((tick) => (tick == null ? "" : formatMetric(name, tick, TICK_DIGITS))),
      },
    ],
    series: [{}, { stroke: colour("--accent"), width: 1.5, points: { show: isAlone }, spanGaps: false }],
    hooks: { setCursor: [(plot) => onHover(plot.cursor.idx ?? null)] },
  };
}

/** One curve over its positions. The text under it says the same in words. */
export function LineChart({ curve, log }: { curve: Curve; log: boolean }) {
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [hover, setHover] = useState<number | null>(null);
  const scheme = useComputedColorScheme("light");
  const { name } = curve;
  const logarithmic = log && hasPositive(curve);

  useEffect(() => {
    const element = host.current;
    if (!element) return;
    const chart = new uPlot(options(name, element.clientWidth, logarithmic, setHover), [[], []], element);
    plot.current = chart;
    const observer = new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height: HEIGHT }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      chart.destroy();
      plot.current = null;
    };
  }, [name, logarithmic, scheme]);

  useEffect(() => {
    plot.current?.setData([curve.xs, logarithmic ? forLog(curve.ys) : curve.ys]);
  }, [curve, logarithmic, scheme]);

  const index = hover ?? curve.xs.length - 1;
  const value = curve.ys[index];
  return (
    <>
      <div
        ref={host}
        role="img"
        aria-label={`${curve.name}: ${curve.xs.length} points, last ${curve.last === null ? "none" : formatMetric(name, curve.last)}`}
      />
      <p className={classes.readout}>
        {curve.xs[index] !== undefined && `at ${formatNumber(curve.xs[index], 7)}: `}
        {value === null || value === undefined ? "no value" : formatMetric(name, value, 5)}
      </p>
    </>
  );
}
