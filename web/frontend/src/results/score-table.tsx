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
import { type Margin, readScores, type ScoreTable } from "./scores";

/**
 * How right the maps are: every method, the controls, and how sure the comparison is. Tables of another kind are
 * left to the downloads.
 */
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
  if (!scores) return null;
  return (
    <Panel title="Scores" flush>
      <Scores scores={scores} />
    </Panel>
  );
}

function Scores({ scores }: { scores: ScoreTable }) {
  return (
    <div data-scores="ready">
      <table className={table.table}>
        <caption className={classes.caption}>
          The share of the most probable L, L/2 and L/5 pairs that are true contacts, L being the length of
          the chain: the mean over all targets, with its 95 % interval.
          {scores.sharesEnergies &&
            " The targets share the letter energies of the training families, but neither fold nor seed."}
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
              {row.scores.map((score, index) => (
                <td key={index} className={table.number}>
                  {score && score.value.toFixed(3)}
                  {score?.interval && (
                    <span className={classes.interval}>
                      {score.interval.low.toFixed(2)} to {score.interval.high.toFixed(2)}
                    </span>
                  )}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      <MarginList title="Model minus the best classical method" margins={scores.margins} />
      <MarginList
        title="Ablation: model on shuffled columns minus the separation prior"
        margins={scores.ablation}
      />
      {scores.figures.length > 0 && (
        <div className={classes.figures}>
          <KeyValues rows={scores.figures.map(({ name, value }) => [name, formatNumber(value, 3)])} />
        </div>
      )}
    </div>
  );
}

function MarginList({ title, margins }: { title: string; margins: Margin[] }) {
  if (margins.length === 0) return null;
  return (
    <div className={classes.comparison} data-margins={title}>
      <strong>{title}</strong>, with the 95 % bootstrap interval over families
      <ul>
        {margins.map(({ cut, mean, low, high, note }) => (
          <li key={cut}>
            {cut}: {signed(mean)} ({signed(low)} to {signed(high)})
            {note && <span className="muted">, {note}</span>}
          </li>
        ))}
      </ul>
    </div>
  );
}

function signed(value: number): string {
  return `${value > 0 ? "+" : ""}${value.toFixed(3)}`;
}
