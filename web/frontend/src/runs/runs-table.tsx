import { Link } from "@tanstack/react-router";

import { isFinished, type RunSummary } from "@/api/types";
import { ProgressBar } from "@/ui/progress-bar";
import { StateLabel, stateWord } from "@/ui/state";
import table from "@/ui/table.module.css";
import { Age, Elapsed } from "@/ui/time";
import classes from "./runs.module.css";

/** The dense list of runs. */
export function RunsTable({ rows }: { rows: RunSummary[] }) {
  return (
    <table className={table.table}>
      <thead>
        <tr>
          <th scope="col">State</th>
          <th scope="col">Run</th>
          <th scope="col" className={table.wide}>
            Workflow
          </th>
          <th scope="col" className={table.wide}>
            Progress
          </th>
          <th scope="col" className={table.wide}>
            Created
          </th>
          <th scope="col" className={`${table.number} ${table.wide}`}>
            Took
          </th>
        </tr>
      </thead>
      <tbody>
        {rows.map((run) => (
          <RunRow key={run.id} run={run} />
        ))}
      </tbody>
    </table>
  );
}

function RunRow({ run }: { run: RunSummary }) {
  const finished = isFinished(run.state);
  const cancelling = run.cancel_requested && !finished;
  return (
    <tr data-run={run.id} data-state={run.state}>
      <td>
        <StateLabel state={run.state} word={cancelling ? "Cancelling" : undefined} />
      </td>
      <td className={classes.name}>
        <Link to="/runs/$id" params={{ id: run.id }}>
          {run.name}
        </Link>
        <span className={classes.id}>{run.id}</span>
        {run.error && <span className={classes.error}>{run.error.message}</span>}
      </td>
      <td className={table.wide}>{run.workflow.name}</td>
      <td className={table.wide}>
        <RunProgress run={run} />
      </td>
      <td className={`${classes.when} ${table.wide}`}>
        <Age time={run.created_at} />
      </td>
      <td className={`${table.number} ${table.wide}`}>
        <Elapsed start={run.started_at} end={run.finished_at} running={run.state === "running"} />
      </td>
    </tr>
  );
}

function RunProgress({ run }: { run: RunSummary }) {
  const counts = run.counts ?? {};
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const done = counts.succeeded ?? 0;
  const title = Object.entries(counts)
    .map(
      ([state, count]) =>
        `${count} ${stateWord(state as keyof typeof counts & RunSummary["state"]).toLowerCase()}`,
    )
    .join(", ");
  return (
    <div className={classes.progress} title={title}>
      {run.state === "running" && <ProgressBar value={run.progress ?? 0} label={`Progress of ${run.name}`} />}
      <span>
        {done} of {total} {total === 1 ? "step" : "steps"}
      </span>
    </div>
  );
}
