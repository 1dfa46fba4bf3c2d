import type { StepDetail } from "@/api/types";
import { formatBytes } from "@/ui/format";
import { FaultText } from "@/ui/problem-alert";
import { StateLabel } from "@/ui/state";
import { ScrollBox } from "@/ui/scroll-box";
import table from "@/ui/table.module.css";
import { Elapsed } from "@/ui/time";

/** Each try of a step: where it ran, how it ended. */
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
              Peak memory
            </th>
            <th scope="col" className={table.number}>
              Took
            </th>
          </tr>
        </thead>
        <tbody>
          {detail.attempts.map((attempt) => (
            <tr key={attempt.number}>
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
                {attempt.peak_memory_bytes ? formatBytes(attempt.peak_memory_bytes) : ""}
              </td>
              <td className={table.number}>
                <Elapsed
                  start={attempt.started_at}
                  end={attempt.finished_at}
                  running={attempt.state === "running"}
                />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </ScrollBox>
  );
}
