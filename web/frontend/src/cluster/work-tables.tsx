import { Link } from "@tanstack/react-router";

import type { Cluster } from "@/api/types";
import table from "@/ui/table.module.css";
import { Age } from "@/ui/time";
import classes from "./cluster.module.css";

/** The worker processes and the step each of them runs. */
export function WorkersTable({ workers }: { workers: Cluster["workers"] }) {
  if (workers.length === 0) {
    return (
      <p className={classes.none}>
        No workers. They are started when a step needs one, and kept warm after it.
      </p>
    );
  }
  return (
    <table className={table.table}>
      <thead>
        <tr>
          <th scope="col">Worker</th>
          <th scope="col">State</th>
          <th scope="col">Runs</th>
          <th scope="col" className={`${table.number} ${table.wide}`}>
            Process
          </th>
          <th scope="col" className={table.wide}>
            Since
          </th>
        </tr>
      </thead>
      <tbody>
        {workers.map((worker) => (
          <tr key={worker.id} data-worker={worker.id} data-state={worker.state}>
            <td className="mono">{worker.name}</td>
            <td>{worker.state}</td>
            <td>{worker.run && worker.step ? <StepLink run={worker.run} step={worker.step} /> : ""}</td>
            <td className={`${table.number} ${table.wide}`}>{worker.pid}</td>
            <td className={table.wide}>{worker.since && <Age time={worker.since} />}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** The steps that wait, and for what. */
export function QueueTable({ queue }: { queue: Cluster["queue"] }) {
  if (queue.length === 0) return <p className={classes.none}>Nothing waits.</p>;
  return (
    <table className={table.table}>
      <thead>
        <tr>
          <th scope="col">Step</th>
          <th scope="col">Waits because</th>
          <th scope="col" className={table.wide}>
            Since
          </th>
        </tr>
      </thead>
      <tbody>
        {queue.map((entry) => (
          <tr key={`${entry.run}/${entry.step}`}>
            <td>
              <StepLink run={entry.run} step={entry.step} />
            </td>
            <td>{entry.reason}</td>
            <td className={table.wide}>{entry.since && <Age time={entry.since} />}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function StepLink({ run, step }: { run: string; step: string }) {
  return (
    <Link to="/runs/$id" params={{ id: run }} search={{ step }}>
      <span className="mono">{step}</span> of <span className="mono">{run}</span>
    </Link>
  );
}
