import { useMemo } from "react";

import { type ContactMap, type Pair, pairAt, type Selection, type Window } from "./contact-map-data";
import { drawMap, paletteFor } from "./contact-map-draw";
import { CellCanvas, devicePixels, PairPlot } from "./pair-plot";

interface ContactMapViewProps {
  map: ContactMap;
  window: Window;
  threshold: number;
  separators: readonly number[];
  selection: Selection | null;
  onSelect: (selection: Selection | null) => void;
  onHover: (pair: Pair | null) => void;
}

/** A contact map that can be pointed at, dragged over and walked through with the arrow keys. */
export function ContactMapView({ map, window, threshold, onHover, ...rest }: ContactMapViewProps) {
  return (
    <PairPlot
      name="Contact map"
      length={map.length}
      window={window}
      firstStep={map.minSeparation}
      onHover={(cell) => onHover(cell ? pairAt(map, cell.row, cell.column) : null)}
      data={{ "data-plot": "contacts", "data-has-truth": map.truth !== null }}
      {...rest}
    >
      {(side, scheme) => (
        <Cells map={map} window={window} threshold={threshold} side={side} scheme={scheme} />
      )}
    </PairPlot>
  );
}

interface CellsProps {
  map: ContactMap;
  window: Window;
  threshold: number;
  side: number;
  scheme: "light" | "dark";
}

function Cells({ map, window, threshold, side, scheme }: CellsProps) {
  const pixels = devicePixels(side);
  const drawn = useMemo(
    () => drawMap(map, window, { width: pixels, height: pixels }, threshold, paletteFor(scheme)),
    [map, window, threshold, pixels, scheme],
  );
  return <CellCanvas drawn={drawn} side={side} />;
}
