import { useQuery } from "@tanstack/react-query";

import { jsonQuery } from "@/api/artifacts";
import type { Artifact } from "@/api/types";
import { formatNumber } from "@/ui/format";
import { KeyValues } from "@/ui/key-values";
import { LoadingLines } from "@/ui/loading";
import { Panel } from "@/ui/page";
import { ProblemAlert } from "@/ui/problem-alert";
import table from "@/ui/table.module.css";
import classes from "./results.module.css";
import { type Comparison, readScores, type ScoreTable } from "./scores";

/** How right the maps are: every method, the controls, and how sure the comparison is. */
export function ScorePanel({ artifact }: { artifact: Artifact }) {
  const document = useQuery(jsonQuery(artifact.digest));
  if (document.isPending) {
    return (
      <Panel title="Scores">
        <LoadingLines what="the scores" />
      </Panel>
    );
  }
  if (document.isError) {
    return (
      <Panel title="Scores">
        <ProblemAlert
          title="The scores could not be loaded"
          error={document.error}
          onRetry={() => void document.refetch()}
        />
      </Panel>
    );
  }
  const scores = readScores(document.data);
  return (
    <Panel title="Scores" flush={scores !== null}>
      {scores ? (
        <Scores scores={scores} />
      ) : (
        <p className="muted">
          {artifact.name} is a table that this page cannot draw; it can be downloaded below.
        </p>
      )}
    </Panel>
  );
}

function Scores({ scores }: { scores: ScoreTable }) {
  return (
    <div data-scores="ready">
      <table className={table.table}>
        <caption className={classes.caption}>
          Precision of the most probable contacts, over all targets: how many of the first L, L/2 and L/5
          pairs are true, L being the length of the chain.
        </caption>
        <thead>
          <tr>
            <th scope="col">Method</th>
            {scores.cuts.map((cut) => (
              <th key={cut} scope="col" className={table.number}>
                {cut}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {scores.rows.map((row) => (
            <tr
              key={row.method}
              data-method={row.method}
              className={row.kind === "model" ? classes.model : undefined}
            >
              <th scope="row" className={row.kind === "control" ? classes.control : classes.method}>
                {row.label}
              </th>
              {row.values.map((value, index) => (
                <td key={index} className={table.number}>
                  {value === null ? "" : value.toFixed(3)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      {scores.comparisons.map((comparison) => (
        <ComparisonText key={comparison.label} comparison={comparison} />
      ))}
      {scores.figures.length > 0 && (
        <div className={classes.figures}>
          <KeyValues rows={scores.figures.map(({ name, value }) => [name, formatNumber(value, 3)])} />
        </div>
      )}
    </div>
  );
}

function ComparisonText({ comparison }: { comparison: Comparison }) {
  return (
    <div className={classes.comparison}>
      <strong>{comparison.label}</strong>, 95 % bootstrap interval over families
      <ul>
        {comparison.intervals.map(({ cut, mean, low, high }) => (
          <li key={cut}>
            {cut}: {signed(mean)} ({signed(low)} to {signed(high)})
          </li>
        ))}
      </ul>
    </div>
  );
}

function signed(value: number): string {
  return `${value > 0 ? "+" : ""}${value.toFixed(3)}`;
}
