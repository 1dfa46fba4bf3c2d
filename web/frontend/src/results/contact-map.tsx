import { useComputedColorScheme } from "@mantine/core";
import { useElementSize } from "@mantine/hooks";
import { type KeyboardEvent, type PointerEvent, useEffect, useMemo, useRef, useState } from "react";

import { type ContactMap, type Pair, pairAt, type Selection, type Window } from "./contact-map-data";
import { axisTicks, drawMap, paletteFor } from "./contact-map-draw";
import classes from "./contact-map.module.css";
import { drawOverlay } from "./contact-map-overlay";

const MARGIN = 34;
const LARGEST = 720;

interface ContactMapViewProps {
  map: ContactMap;
  window: Window;
  threshold: number;
  selection: Selection | null;
  onSelect: (selection: Selection | null) => void;
  onHover: (pair: Pair | null) => void;
}

interface CellPlace {
  row: number;
  column: number;
}

/** A contact map that can be pointed at, dragged over and walked through with the arrow keys. */
export function ContactMapView({
  map,
  window,
  threshold,
  selection,
  onSelect,
  onHover,
}: ContactMapViewProps) {
  const { ref: sizer, width: available } = useElementSize();
  const scheme = useComputedColorScheme("light");
  const side = Math.max(120, Math.min(LARGEST, Math.floor(available) - MARGIN));
  const [cursor, setCursor] = useState<CellPlace | null>(null);
  const [dragStart, setDragStart] = useState<CellPlace | null>(null);

  const place = (cell: CellPlace | null) => {
    setCursor(cell);
    onHover(cell ? pairAt(map, cell.row, cell.column) : null);
  };
  const cellAt = (event: PointerEvent): CellPlace => {
    const box = event.currentTarget.getBoundingClientRect();
    const within = (share: number, from: number, to: number) =>
      Math.min(to - 1, Math.max(from, from + Math.floor(share * (to - from))));
    return {
      row: within((event.clientY - box.top) / box.height, window.top, window.bottom),
      column: within((event.clientX - box.left) / box.width, window.left, window.right),
    };
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape") {
      onSelect(null);
      return;
    }
    const here = cursor ?? {
      row: window.top,
      column: Math.min(window.right - 1, window.top + map.minSeparation),
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
          aria-roledescription="contact map"
          aria-label={`Contact map, ${map.length} by ${map.length} residues. Arrow keys move the cursor, with Shift by ten; Enter selects, Escape clears.`}
          tabIndex={0}
          data-state="drawn"
          data-length={map.length}
          data-has-truth={map.truth !== null}
          onKeyDown={onKeyDown}
          onPointerMove={(event) => place(cellAt(event))}
          onPointerLeave={() => {
            if (!dragStart) place(null);
          }}
          onPointerDown={(event) => {
            if (event.button !== 0) return;
            event.currentTarget.setPointerCapture(event.pointerId);
            setDragStart(cellAt(event));
          }}
          onPointerUp={(event) => {
            if (dragStart) onSelect(between(dragStart, cellAt(event)));
            setDragStart(null);
          }}
          onPointerCancel={() => setDragStart(null)}
        >
          <Cells map={map} window={window} threshold={threshold} side={side} scheme={scheme} />
          <Overlay
            window={window}
            side={side}
            cursor={cursor}
            selection={dragged ?? selection}
            scheme={scheme}
          />
        </div>
      </div>
    </div>
  );
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

interface CellsProps {
  map: ContactMap;
  window: Window;
  threshold: number;
  side: number;
  scheme: "light" | "dark";
}

function Cells({ map, window, threshold, side, scheme }: CellsProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const density = globalThis.devicePixelRatio || 1;
  const pixels = Math.round(side * density);
  const drawn = useMemo(
    () => drawMap(map, window, { width: pixels, height: pixels }, threshold, paletteFor(scheme)),
    [map, window, threshold, pixels, scheme],
  );

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
  scheme: "light" | "dark";
}

function Overlay({ window, side, cursor, selection, scheme }: OverlayProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const density = globalThis.devicePixelRatio || 1;

  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context) return;
    context.setTransform(density, 0, 0, density, 0, 0);
    drawOverlay(context, { window, side, cursor, selection, dark: scheme === "dark" });
  }, [window, side, cursor, selection, scheme, density]);

  return (
    <canvas
      ref={canvas}
      width={Math.round(side * density)}
      height={Math.round(side * density)}
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
