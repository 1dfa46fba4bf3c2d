import { Button } from "@mantine/core";
import { useMemo, useState } from "react";

import { Panel } from "@/ui/page";
import table from "@/ui/table.module.css";
import { type ContactMap, formatSelection, type Pair, type Selection, topContacts } from "./contact-map-data";
import classes from "./results.module.css";

const FIRST = 10;

interface TopContactsProps {
  map: ContactMap;
  nameOf: (residue: number) => string;
  selection: Selection | null;
  onSelect: (selection: Selection) => void;
}

/** The most probable pairs as text: the map for those who cannot see or point at it. */
export function TopContacts({ map, nameOf, selection, onSelect }: TopContactsProps) {
  const [all, setAll] = useState(false);
  const pairs = useMemo(() => topContacts(map, map.length), [map]);
  const shown = all ? pairs : pairs.slice(0, FIRST);
  const right = pairs.filter((pair) => pair.isContact).length;
  const chosen = selection ? formatSelection(selection) : "";

  return (
    <Panel title="Most probable contacts" flush>
      {map.truth && pairs.length > 0 && (
        <p className={classes.padded}>
          Of the {pairs.length} most probable pairs {right} are true contacts (
          {(right / pairs.length).toFixed(3)}).
        </p>
      )}
      <div className={all ? classes.scrolled : undefined} tabIndex={all ? 0 : undefined}>
        <table className={table.table}>
          <thead>
            <tr>
              <th scope="col">Residues</th>
              <th scope="col" className={table.number}>
                Apart
              </th>
              <th scope="col" className={table.number}>
                Probability
              </th>
              {map.truth && <th scope="col">True</th>}
            </tr>
          </thead>
          <tbody>
            {shown.map((pair) => {
              const own = toSelection(pair);
              return (
                <tr key={`${pair.i}-${pair.j}`}>
                  <td>
                    <button
                      type="button"
                      className={classes.pairButton}
                      aria-pressed={chosen === formatSelection(own)}
                      onClick={() => onSelect(own)}
                    >
                      {nameOf(pair.i)}, {nameOf(pair.j)}
                    </button>
                  </td>
                  <td className={table.number}>{pair.j - pair.i}</td>
                  <td className={table.number}>{pair.probability.toFixed(3)}</td>
                  {map.truth && <td>{pair.isContact ? "yes" : "no"}</td>}
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
      {pairs.length > FIRST && (
        <p className={classes.padded}>
          <Button size="compact-xs" variant="default" onClick={() => setAll(!all)}>
            {all ? `Show the first ${FIRST}` : `Show all ${pairs.length}`}
          </Button>
        </p>
      )}
    </Panel>
  );
}

function toSelection({ i, j }: Pair): Selection {
  return { rows: { from: i, to: i }, columns: { from: j, to: j } };
}
