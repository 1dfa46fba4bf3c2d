import { useElementSize } from "@mantine/hooks";
import { type PointerEvent, useEffect, useRef, useState } from "react";

import { Panel } from "@/ui/page";
import { BANDS, bandOf, mean } from "./confidence";
import type { Range, Selection } from "./contact-map-data";
import classes from "./results.module.css";

const HEIGHT = 84;

interface ConfidenceTrackProps {
  values: Float32Array;
  nameOf: (residue: number) => string;
  selection: Selection | null;
  onSelect: (selection: Selection | null) => void;
}

/** Confidence along the chain. Dragging selects residues, here, on the map and in the structure. */
export function ConfidenceTrack({ values, nameOf, selection, onSelect }: ConfidenceTrackProps) {
  const { ref, width } = useElementSize();
  const [hover, setHover] = useState<number | null>(null);
  const [start, setStart] = useState<number | null>(null);
  const average = mean(values);

  const residueAt = (event: PointerEvent) => {
    const box = event.currentTarget.getBoundingClientRect();
    const place = Math.floor(((event.clientX - box.left) / box.width) * values.length);
    return Math.min(values.length - 1, Math.max(0, place));
  };
  const dragged: Range | null =
    start !== null && hover !== null ? { from: Math.min(start, hover), to: Math.max(start, hover) } : null;
  const marked = dragged ? [dragged] : selection ? [selection.rows, selection.columns] : [];

  return (
    <Panel title="Confidence along the chain" actions={<BandLegend />}>
      <div
        ref={ref}
        className={classes.track}
        role="img"
        aria-label={`Predicted confidence of ${values.length} residues, mean ${average?.toFixed(1) ?? "unknown"} of 100`}
        data-track="confidence"
        onPointerMove={(event) => setHover(residueAt(event))}
        onPointerLeave={() => {
          if (start === null) setHover(null);
        }}
        onPointerDown={(event) => {
          if (event.button !== 0) return;
          event.currentTarget.setPointerCapture(event.pointerId);
          setStart(residueAt(event));
        }}
        onPointerUp={(event) => {
          if (start !== null) {
            const end = residueAt(event);
            const range = { from: Math.min(start, end), to: Math.max(start, end) };
            onSelect({ rows: range, columns: range });
          }
          setStart(null);
        }}
        onPointerCancel={() => setStart(null)}
      >
        <Bars values={values} width={Math.floor(width)} marked={marked} />
      </div>
      <p className={classes.readout}>
        {hover !== null ? (
          <>
            <strong className="mono">{nameOf(hover)}</strong> {(values[hover] as number).toFixed(1)},{" "}
            {bandOf(values[hover] as number).name.toLowerCase()}
          </>
        ) : (
          `Mean ${average?.toFixed(1) ?? "unknown"} of 100. Drag over the bars to select residues.`
        )}
      </p>
    </Panel>
  );
}

function Bars({ values, width, marked }: { values: Float32Array; width: number; marked: Range[] }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const density = globalThis.devicePixelRatio || 1;

  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context || width === 0) return;
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, HEIGHT);
    const step = width / values.length;
    for (const { from, to } of marked) {
      context.fillStyle = "rgba(42, 102, 207, 0.22)";
      context.fillRect(from * step, 0, (to - from + 1) * step, HEIGHT);
    }
    for (let index = 0; index < values.length; index += 1) {
      const value = values[index] as number;
      const height = (Math.min(100, Math.max(0, value)) / 100) * HEIGHT;
      context.fillStyle = bandOf(value).colour;
      context.fillRect(index * step, HEIGHT - height, Math.max(0.75, step - (step > 3 ? 1 : 0)), height);
    }
  }, [values, width, marked, density]);

  return (
    <canvas
      ref={canvas}
      width={Math.round(width * density)}
      height={Math.round(HEIGHT * density)}
      style={{ width: "100%", height: HEIGHT }}
      aria-hidden="true"
    />
  );
}

/** The colours of confidence, with their ranges. */
export function BandLegend() {
  return (
    <ul className={classes.bands} aria-label="Bands of confidence">
      {BANDS.map((band) => (
        <li key={band.name}>
          <span className={classes.swatch} style={{ background: band.colour }} /> {band.name} ({band.range})
        </li>
      ))}
    </ul>
  );
}
