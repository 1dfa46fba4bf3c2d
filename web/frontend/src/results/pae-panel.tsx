import { Button } from "@mantine/core";
import { useQueries, useQuery } from "@tanstack/react-query";
import { useMemo, useState } from "react";

import { arrayPartQuery, groupQuery } from "@/api/artifacts";
import { LoadingLines } from "@/ui/loading";
import { Panel } from "@/ui/page";
import { ProblemAlert } from "@/ui/problem-alert";
import { formatSelection, type Selection, wholeMap, type Window } from "./contact-map-data";
import type { FoldEntry } from "./folds";
import {
  drawErrors,
  errorAt,
  errorColour,
  joinTiles,
  LARGEST_ERROR,
  levelFor,
  type PaePart,
  type Scale,
  tilesFor,
} from "./pae-data";
import { CellCanvas, type CellPlace, devicePixels, PairPlot } from "./pair-plot";
import classes from "./results.module.css";

interface PaePanelProps {
  fold: FoldEntry;
  nameOf: (residue: number) => string;
  separators: readonly number[];
  selection: Selection | null;
  onSelect: (selection: Selection | null) => void;
}

interface FoldAttributes {
  pae_step?: number;
  pae_missing?: number;
}

/** Predicted aligned errors of a structure; nothing where its model told none. */
export function PaePanel(props: PaePanelProps) {
  const { fold } = props;
  const group = useQuery(groupQuery(fold.digest, fold.path));
  if (group.isPending) {
    return (
      <Panel title="Predicted aligned error">
        <LoadingLines lines={6} what="the errors" />
      </Panel>
    );
  }
  if (group.isError) {
    return (
      <Panel title="Predicted aligned error">
        <ProblemAlert title="The errors could not be read" error={group.error} />
      </Panel>
    );
  }
  const length = group.data.arrays.find(({ name }) => name === "pae")?.shape[0];
  if (length === undefined) {
    return (
      <Panel title="Predicted aligned error">
        <p className="muted">This model tells no errors of pairs.</p>
      </Panel>
    );
  }
  const { pae_step: step = 0.125, pae_missing: missing = 255 } = group.data.attributes as FoldAttributes;
  return <LoadedPae {...props} length={length} scale={{ step, missing }} />;
}

/** The part of the map that a window needs; null until all of its tiles are there. */
function usePart(fold: FoldEntry, window: Window, length: number, scale: Scale) {
  const level = levelFor(window);
  const tiles = useMemo(() => tilesFor(window, level, length), [window, level, length]);
  const path = `${fold.path}/${level.name}`;
  const parts = useQueries({
    queries: tiles.map(({ start, stop }) => arrayPartQuery(fold.digest, path, start, stop)),
  });
  const failed = parts.find((query) => query.isError) ?? null;
  const data = parts.flatMap((query) => (query.data ? [query.data] : []));
  const part = useMemo(
    () => (data.length === tiles.length ? joinTiles(level, scale, tiles, data) : null),
    [level, tiles, scale.step, scale.missing, data.length], // eslint-disable-line react-hooks/exhaustive-deps
  );
  return { part, failed };
}

function LoadedPae(props: PaePanelProps & { length: number; scale: Scale }) {
  const { fold, length, scale, nameOf, separators, selection, onSelect } = props;
  const [zoom, setZoom] = useState<Window | null>(null);
  const [hover, setHover] = useState<CellPlace | null>(null);
  const whole = useMemo(() => wholeMap(length), [length]);
  const window = zoom ?? whole;
  const { part, failed } = usePart(fold, window, length, scale);
  const zoomable =
    selection && selection.rows.to > selection.rows.from && selection.columns.to > selection.columns.from;

  return (
    <Panel
      title="Predicted aligned error"
      actions={
        <span className={classes.tools}>
          {zoomable && (
            <Button size="compact-xs" variant="default" onClick={() => setZoom(toWindow(selection))}>
              Zoom in on errors
            </Button>
          )}
          {zoom && (
            <Button size="compact-xs" variant="default" onClick={() => setZoom(null)}>
              Show all errors
            </Button>
          )}
          {selection && (
            <Button size="compact-xs" variant="default" onClick={() => onSelect(null)}>
              Deselect {formatSelection(selection)}
            </Button>
          )}
        </span>
      }
    >
      {failed && <ProblemAlert title="The errors could not be read" error={failed.error} />}
      {!failed && !part && <LoadingLines lines={6} what="the errors" />}
      {part && (
        <PairPlot
          name="Predicted aligned error"
          length={length}
          window={window}
          firstStep={0}
          separators={separators}
          selection={selection}
          onSelect={onSelect}
          onHover={setHover}
          data={{ "data-plot": "pae", "data-level": part.size }}
        >
          {(side) => <Cells part={part} window={window} side={side} />}
        </PairPlot>
      )}
      <output className={classes.readout} aria-live="polite" data-errors={hover ? "pair" : "none"}>
        {hover && part ? (
          <Readout part={part} place={hover} nameOf={nameOf} />
        ) : (
          "Point at the map, or focus it and use the arrow keys. Dragging selects residues in the structure."
        )}
      </output>
      <Legend separators={separators.length > 0} />
    </Panel>
  );
}

function toWindow({ rows, columns }: Selection): Window {
  return { top: rows.from, bottom: rows.to + 1, left: columns.from, right: columns.to + 1 };
}

function Cells({ part, window, side }: { part: PaePart; window: Window; side: number }) {
  const pixels = devicePixels(side);
  const drawn = useMemo(() => drawErrors(part, window, pixels), [part, window, pixels]);
  return <CellCanvas drawn={drawn} side={side} />;
}

interface ReadoutProps {
  part: PaePart;
  place: CellPlace;
  nameOf: (residue: number) => string;
}

function Readout({ part, place, nameOf }: ReadoutProps) {
  const error = errorAt(part, place.row, place.column);
  return (
    <>
      <strong className="mono">{nameOf(place.column)}</strong>{" "}
      {error === null ? "has no error" : `${error.toFixed(1)} Å off`} where{" "}
      <strong className="mono">{nameOf(place.row)}</strong> is aligned
      {part.size > 1 && (
        <span className="muted">
          {" "}
          (mean of {part.size} by {part.size} residues)
        </span>
      )}
    </>
  );
}

function Legend({ separators }: { separators: boolean }) {
  const stops = [0, 0.25, 0.5, 0.75, 1]
    .map((share) => `rgb(${errorColour(share * LARGEST_ERROR).join(" ")})`)
    .join(", ");
  return (
    <div className={classes.legend}>
      <span className={classes.scale}>
        0 <span className={classes.ramp} style={{ background: `linear-gradient(to right, ${stops})` }} />{" "}
        {LARGEST_ERROR} Å
      </span>
      <span>
        Rows: the aligned residue. Columns: the residue whose place is expected to be off.
        {separators && " Lines part the chains."}
      </span>
    </div>
  );
}
