import { Fragment } from "react";

import type { Attempt, StepDetail } from "@/api/types";
import { formatBytes } from "@/ui/format";
import { FaultText } from "@/ui/problem-alert";
import { StateLabel } from "@/ui/state";
import { ScrollBox } from "@/ui/scroll-box";
import table from "@/ui/table.module.css";
import { Elapsed } from "@/ui/time";
import { changeWords, measuredPeak, plannedPeak, planWords } from "./plan-words";
import classes from "./run.module.css";

/** Each try of a step: where it ran, what it planned and took, how it ended, what changed after that. */
export function AttemptsTable({ detail }: { detail: StepDetail }) {
  if (detail.attempts.length === 0) {
    return (
      <p className="muted">
        {detail.cached ? "The result came from the cache, so nothing was run." : "No attempt was made yet."}
      </p>
    );
  }
  return (
    <ScrollBox>
      <table className={table.table}>
        <thead>
          <tr>
            <th scope="col">Attempt</th>
            <th scope="col">State</th>
            <th scope="col">Worker</th>
            <th scope="col" className={table.number}>
              Memory
            </th>
            <th scope="col" className={table.number}>
              Took
            </th>
          </tr>
        </thead>
        <tbody>
          {detail.attempts.map((attempt) => (
            <Fragment key={attempt.number}>
              <tr
                data-attempt={attempt.number}
                className={attempt.plan || attempt.changes ? classes.planned : undefined}
              >
                <td>{attempt.number}</td>
                <td>
                  <StateLabel state={attempt.state} />
                  {attempt.cause && <div className="muted">{attempt.cause}</div>}
                  {attempt.error?.message && (
                    <FaultText
                      fault={{
                        ...attempt.error,
                        code: attempt.error.code ?? "",
                        message: attempt.error.message,
                      }}
                    />
                  )}
                  {attempt.exit && <div className="muted">{attempt.exit}</div>}
                </td>
                <td>
                  <span className="mono">{attempt.worker}</span>
                  {attempt.node && <div className="muted">{attempt.node}</div>}
                </td>
                <td className={table.number}>
                  <Memory attempt={attempt} />
                </td>
                <td className={`${table.number} ${classes.oneLine}`}>
                  <Elapsed
                    start={attempt.started_at}
                    end={attempt.finished_at}
                    running={attempt.state === "running"}
                  />
                </td>
              </tr>
              <PlanRow attempt={attempt} />
            </Fragment>
          ))}
        </tbody>
      </table>
    </ScrollBox>
  );
}

/** Predicted and measured peak, one under the other, so that they can be compared. */
function Memory({ attempt }: { attempt: Attempt }) {
  const planned = plannedPeak(attempt);
  const measured = measuredPeak(attempt);
  return (
    <>
      {planned !== null && <div className={classes.oneLine}>planned {formatBytes(planned)}</div>}
      {measured !== null && <div className={classes.oneLine}>took {formatBytes(measured)}</div>}
    </>
  );
}

function PlanRow({ attempt }: { attempt: Attempt }) {
  const changes = changeWords(attempt);
  const plan = planWords(attempt);
  if (changes.length === 0 && plan.length === 0) return null;
  return (
    <tr className={classes.planRow}>
      <td />
      <td colSpan={4}>
        {changes.length > 0 && (
          <div>
            <strong>Changed:</strong> {changes.join(", ")}
          </div>
        )}
        {plan.length > 0 && <div className="muted">{plan.join(" · ")}</div>}
      </td>
    </tr>
  );
}
