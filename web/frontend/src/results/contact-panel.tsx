import { Button, Slider, useComputedColorScheme } from "@mantine/core";
import { useMemo, useState } from "react";

import { Panel } from "@/ui/page";
import { ContactMapView } from "./contact-map";
import {
  agreementAt,
  type ContactMap,
  formatSelection,
  type Pair,
  type Selection,
  wholeMap,
  type Window,
} from "./contact-map-data";
import { colourOf, paletteFor } from "./contact-map-draw";
import classes from "./results.module.css";

interface ContactPanelProps {
  map: ContactMap;
  nameOf: (residue: number) => string;
  separators: readonly number[];
  cutoff: number | null;
  selection: Selection | null;
  onSelect: (selection: Selection | null) => void;
}

/** The contact map with its scale, its threshold and what stands under the cursor. */
export function ContactPanel({ map, nameOf, separators, cutoff, selection, onSelect }: ContactPanelProps) {
  const [threshold, setThreshold] = useState(0);
  const [hover, setHover] = useState<Pair | null>(null);
  const [zoom, setZoom] = useState<Window | null>(null);
  const whole = useMemo(() => wholeMap(map.length), [map.length]);
  const zoomable =
    selection && (selection.rows.to > selection.rows.from || selection.columns.to > selection.columns.from);

  return (
    <Panel
      title="Contact map"
      actions={
        <span className={classes.tools}>
          {zoomable && (
            <Button size="compact-xs" variant="default" onClick={() => setZoom(toWindow(selection))}>
              Zoom to selection
            </Button>
          )}
          {zoom && (
            <Button size="compact-xs" variant="default" onClick={() => setZoom(null)}>
              Show all
            </Button>
          )}
          {selection && (
            <Button size="compact-xs" variant="default" onClick={() => onSelect(null)}>
              Clear {formatSelection(selection)}
            </Button>
          )}
        </span>
      }
    >
      <ContactMapView
        map={map}
        window={zoom ?? whole}
        threshold={threshold}
        separators={separators}
        selection={selection}
        onSelect={onSelect}
        onHover={setHover}
      />
      <output className={classes.readout} aria-live="polite" data-readout={hover ? "pair" : "none"}>
        {hover ? (
          <Readout pair={hover} nameOf={nameOf} map={map} />
        ) : (
          "Point at the map, or focus it and use the arrow keys."
        )}
      </output>
      <Legend map={map} cutoff={cutoff} />
      <div className={classes.threshold}>
        <span id="threshold-label">Show from probability {threshold.toFixed(2)}</span>
        <Slider
          value={threshold}
          onChange={setThreshold}
          min={0}
          max={0.99}
          step={0.01}
          label={null}
          size={4}
          thumbProps={{ "aria-labelledby": "threshold-label" }}
        />
        {threshold > 0 && <AgreementText map={map} threshold={threshold} />}
      </div>
    </Panel>
  );
}

function toWindow({ rows, columns }: Selection): Window {
  return { top: rows.from, bottom: rows.to + 1, left: columns.from, right: columns.to + 1 };
}

interface ReadoutProps {
  pair: Pair;
  nameOf: (residue: number) => string;
  map: ContactMap;
}

function Readout({ pair, nameOf, map }: ReadoutProps) {
  const close = pair.j - pair.i < Math.max(1, map.minSeparation);
  return (
    <>
      <strong className="mono">
        {nameOf(pair.i)}, {nameOf(pair.j)}
      </strong>
      {close ? (
        <span> too close along the chain to be scored</span>
      ) : (
        <>
          <span> probability {pair.probability.toFixed(3)}</span>
          {pair.isContact !== null && <span>, {pair.isContact ? "a true contact" : "not a contact"}</span>}
        </>
      )}
    </>
  );
}

function Legend({ map, cutoff }: { map: ContactMap; cutoff: number | null }) {
  const palette = paletteFor(useComputedColorScheme("light"));
  const stops = [0, 0.25, 0.5, 0.75, 1]
    .map((value) => `rgb(${colourOf(palette, value).join(" ")})`)
    .join(", ");
  return (
    <div className={classes.legend}>
      <span className={classes.scale}>
        0 <span className={classes.ramp} style={{ background: `linear-gradient(to right, ${stops})` }} /> 1
      </span>
      <span>{map.truth ? "Above the diagonal: predicted probability." : "Predicted probability."}</span>
      {map.truth ? (
        <span>
          <span className={classes.swatch} style={{ background: `rgb(${palette.truth.join(" ")})` }} /> Below:
          true contacts{cutoff !== null && ` (closer than ${cutoff} Å)`}.
        </span>
      ) : (
        <span>No structure is known for this target, so both halves show the prediction.</span>
      )}
    </div>
  );
}

function AgreementText({ map, threshold }: { map: ContactMap; threshold: number }) {
  const { predicted, actual, right } = useMemo(() => agreementAt(map, threshold), [map, threshold]);
  if (actual === null || right === null) return <span className="muted">{predicted} predicted contacts</span>;
  const precision = predicted > 0 ? (right / predicted).toFixed(2) : "undefined";
  const recall = actual > 0 ? (right / actual).toFixed(2) : "undefined";
  return (
    <span className="muted">
      {predicted} predicted, {right} of them true: precision {precision}, recall {recall}
    </span>
  );
}
