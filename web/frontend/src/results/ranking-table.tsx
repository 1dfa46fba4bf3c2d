import { Button } from "@mantine/core";
import { getRouteApi } from "@tanstack/react-router";
import { useState } from "react";

import { Panel } from "@/ui/page";
import table from "@/ui/table.module.css";
import { entryOfRanked, type FoldResults, type Place, placeOf, type RankedModel, type Read } from "./folds";
import type { Ranking } from "./folds";
import type { Shown } from "./outputs";
import classes from "./results.module.css";

const route = getRouteApi("/runs/$id/results");
const FIRST = 10;

interface RankingTableProps {
  ranking: Read<Ranking>;
  results: FoldResults;
  predictions: readonly Shown[];
  /** What is looked at now. */
  current: Place | null;
}

/** All structures in the order of confidence; each opens where it can be looked at. */
export function RankingTable({ ranking, results, predictions, current }: RankingTableProps) {
  const [all, setAll] = useState(false);
  const { models, rule } = ranking.value;
  const shown = all ? models : models.slice(0, FIRST);
  const passes = results.statuses.flatMap(({ value }) => [...value.recycles.entries()]);
  const recycles = new Map(passes);
  return (
    <Panel title="Ranking" flush>
      <div className={all ? classes.scrolled : undefined} tabIndex={all ? 0 : undefined}>
        <table className={table.table} data-ranking={models.length}>
          {rule && <caption className={classes.caption}>{rule}</caption>}
          <thead>
            <tr>
              <th scope="col">Record</th>
              <th scope="col" className={table.number}>
                Rank
              </th>
              <th scope="col">Model</th>
              {["Seed", "Sample", "pLDDT", "pTM", "ipTM", "Confidence", "Recycles"].map((name) => (
                <th key={name} scope="col" className={table.number}>
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {shown.map((model) => (
              <Row
                key={`${model.record} ${model.name}`}
                model={model}
                place={placeOf(results, ranking.shown, model, predictions)}
                current={current}
                recycles={recycles.get(entryOfRanked(results, model)?.path ?? "") ?? null}
              />
            ))}
          </tbody>
        </table>
      </div>
      {models.length > FIRST && (
        <p className={classes.padded}>
          <Button size="compact-xs" variant="default" onClick={() => setAll(!all)}>
            {all ? `Show the first ${FIRST}` : `Show all ${models.length}`}
          </Button>
        </p>
      )}
    </Panel>
  );
}

interface RowProps {
  model: RankedModel;
  place: Place | null;
  current: Place | null;
  recycles: { passes: number; converged: boolean } | null;
}

function Row({ model, place, current, recycles }: RowProps) {
  const navigate = route.useNavigate();
  const open = (to: Place) =>
    void navigate({
      search: (previous) => ({ ...previous, ...to, sel: undefined }),
      replace: true,
      resetScroll: false,
    });
  const isOpen = place?.predictions === current?.predictions && place?.target === current?.target;
  const isShown = place !== null && isOpen;
  const numbers = [model.plddt?.toFixed(1), model.ptm?.toFixed(3), model.iptm?.toFixed(3)];
  return (
    <tr className={isShown ? classes.model : undefined} data-rank={model.rank} data-record={model.record}>
      <th scope="row" className={classes.method}>
        {place ? (
          <button
            type="button"
            className={classes.pairButton}
            aria-pressed={isShown}
            aria-label={`Show ${model.record}, rank ${model.rank}`}
            onClick={() => open(place)}
          >
            {model.record}
          </button>
        ) : (
          model.record
        )}
      </th>
      <td className={table.number}>{model.rank}</td>
      <td>{model.model}</td>
      <td className={table.number}>{model.seed}</td>
      <td className={table.number}>{model.sample}</td>
      {[...numbers, model.confidence?.toFixed(3)].map((text, index) => (
        <td key={index} className={table.number}>
          {text ?? <span className="muted">none</span>}
        </td>
      ))}
      <td className={table.number}>
        {recycles ? recycles.passes : <span className="muted">unknown</span>}
        {recycles?.converged && <span className="muted"> (converged)</span>}
      </td>
    </tr>
  );
}
