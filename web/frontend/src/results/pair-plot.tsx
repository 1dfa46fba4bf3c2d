import { useComputedColorScheme } from "@mantine/core";
import { useElementSize } from "@mantine/hooks";
import { type KeyboardEvent, type PointerEvent, type ReactNode, useEffect, useRef, useState } from "react";

import type { Selection, Window } from "./contact-map-data";
import { axisTicks, type Pixels } from "./contact-map-draw";
import { drawOverlay } from "./contact-map-overlay";
import classes from "./pair-plot.module.css";

const MARGIN = 34;
const LARGEST = 720;

export interface CellPlace {
  row: number;
  column: number;
}

interface PairPlotProps {
  /** What is plotted, for example `Contact map`. */
  name: string;
  length: number;
  window: Window;
  /** How far right of the diagonal the keyboard begins. */
  firstStep: number;
  /** Residues before which a line is drawn across. */
  separators?: readonly number[];
  selection: Selection | null;
  onSelect: (selection: Selection | null) => void;
  onHover: (cell: CellPlace | null) => void;
  /** Further `data-` attributes, for tests. */
  data?: Record<`data-${string}`, string | number | boolean>;
  /** Draws the pairs of the window on a square of so many units of the page. */
  children: (side: number, scheme: "light" | "dark") => ReactNode;
}

/** Values of pairs of residues that can be pointed at, dragged over and walked through with the arrow keys. */
export function PairPlot(props: PairPlotProps) {
  const { name, length, window, firstStep, separators = [], selection, onSelect, onHover } = props;
  const { ref: sizer, width: available } = useElementSize();
  const scheme = useComputedColorScheme("light");
  const side = Math.max(120, Math.min(LARGEST, Math.floor(available) - MARGIN));
  const [cursor, setCursor] = useState<CellPlace | null>(null);
  const [dragStart, setDragStart] = useState<CellPlace | null>(null);

  const place = (cell: CellPlace | null) => {
    setCursor(cell);
    onHover(cell);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape") {
      onSelect(null);
      return;
    }
    const here = cursor ?? {
      row: window.top,
      column: Math.min(window.right - 1, window.top + firstStep),
    };
    if (event.key === "Enter" || event.key === " ") {
      onSelect(between(here, here));
      event.preventDefault();
      return;
    }
    const next = moved(here, event, window);
    if (next) {
      place(next);
      event.preventDefault();
    }
  };
  const dragged = dragStart && cursor ? between(dragStart, cursor) : null;

  return (
    <div ref={sizer} className={classes.sizer}>
      <div className={classes.frame} style={{ width: side + MARGIN, height: side + MARGIN }}>
        <Axis window={window} side={side} />
        <div
          className={classes.plot}
          style={{ width: side, height: side, left: MARGIN }}
          role="application"
          aria-roledescription={name.toLowerCase()}
          aria-label={`${name}, ${length} by ${length} residues. Arrow keys move the cursor, with Shift by ten; Enter selects, Escape clears.`}
          tabIndex={0}
          data-state="drawn"
          data-length={length}
          {...props.data}
          onKeyDown={onKeyDown}
          onPointerMove={(event) => place(cellAt(event, window))}
          onPointerLeave={() => {
            if (!dragStart) place(null);
          }}
          onPointerDown={(event) => {
            if (event.button !== 0) return;
            event.currentTarget.setPointerCapture(event.pointerId);
            setDragStart(cellAt(event, window));
          }}
          onPointerUp={(event) => {
            if (dragStart) onSelect(between(dragStart, cellAt(event, window)));
            setDragStart(null);
          }}
          onPointerCancel={() => setDragStart(null)}
        >
          {props.children(side, scheme)}
          <Overlay
            window={window}
            side={side}
            cursor={cursor}
            selection={dragged ?? selection}
            separators={separators}
            scheme={scheme}
          />
        </div>
      </div>
    </div>
  );
}

function cellAt(event: PointerEvent, window: Window): CellPlace {
  const box = event.currentTarget.getBoundingClientRect();
  const within = (share: number, from: number, to: number) =>
    Math.min(to - 1, Math.max(from, from + Math.floor(share * (to - from))));
  return {
    row: within((event.clientY - box.top) / box.height, window.top, window.bottom),
    column: within((event.clientX - box.left) / box.width, window.left, window.right),
  };
}

function moved(here: CellPlace, event: KeyboardEvent, window: Window): CellPlace | null {
  const step = event.shiftKey ? 10 : 1;
  const moves: Record<string, [rows: number, columns: number]> = {
    ArrowUp: [-step, 0],
    ArrowDown: [step, 0],
    ArrowLeft: [0, -step],
    ArrowRight: [0, step],
  };
  const move = moves[event.key];
  if (!move) return null;
  return {
    row: Math.min(window.bottom - 1, Math.max(window.top, here.row + move[0])),
    column: Math.min(window.right - 1, Math.max(window.left, here.column + move[1])),
  };
}

function between(first: CellPlace, second: CellPlace): Selection {
  return {
    rows: { from: Math.min(first.row, second.row), to: Math.max(first.row, second.row) },
    columns: { from: Math.min(first.column, second.column), to: Math.max(first.column, second.column) },
  };
}

/** Device pixels along a length in units of the page. */
export function devicePixels(side: number): number {
  return Math.round(side * (globalThis.devicePixelRatio || 1));
}

/** Drawn cells, scaled up to a square of the page without smoothing. */
export function CellCanvas({ drawn, side }: { drawn: Pixels; side: number }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const pixels = devicePixels(side);

  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context) return;
    const cells = document.createElement("canvas");
    cells.width = drawn.width;
    cells.height = drawn.height;
    cells.getContext("2d")?.putImageData(new ImageData(drawn.data, drawn.width, drawn.height), 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(cells, 0, 0, pixels, pixels);
  }, [drawn, pixels]);

  return <canvas ref={canvas} width={pixels} height={pixels} className={classes.canvas} aria-hidden="true" />;
}

interface OverlayProps {
  window: Window;
  side: number;
  cursor: CellPlace | null;
  selection: Selection | null;
  separators: readonly number[];
  scheme: "light" | "dark";
}

function Overlay({ window, side, cursor, selection, separators, scheme }: OverlayProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const density = globalThis.devicePixelRatio || 1;

  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context) return;
    context.setTransform(density, 0, 0, density, 0, 0);
    drawOverlay(context, { window, side, cursor, selection, separators, dark: scheme === "dark" });
  }, [window, side, cursor, selection, separators, scheme, density]);

  return (
    <canvas
      ref={canvas}
      width={devicePixels(side)}
      height={devicePixels(side)}
      className={classes.canvas}
      aria-hidden="true"
    />
  );
}

function Axis({ window, side }: { window: Window; side: number }) {
  const most = Math.max(2, Math.floor(side / 70));
  const place = (residue: number, from: number, to: number) => ((residue - 0.5 - from) / (to - from)) * side;
  return (
    <div aria-hidden="true">
      {axisTicks(window.top, window.bottom, most).map((residue) => (
        <span
          key={`row-${residue}`}
          className={classes.rowTick}
          style={{ top: place(residue, window.top, window.bottom), width: MARGIN - 6 }}
        >
          {residue}
        </span>
      ))}
      {axisTicks(window.left, window.right, most).map((residue) => (
        <span
          key={`column-${residue}`}
          className={classes.columnTick}
          style={{ left: MARGIN + place(residue, window.left, window.right), top: side + 6 }}
        >
          {residue}
        </span>
      ))}
    </div>
  );
}
