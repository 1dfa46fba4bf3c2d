import { Notice } from "@/ui/notice";
import type { FoldStatus } from "./folds";
import classes from "./results.module.css";

const FIRST = 20;

/** Records without a structure, and why: what is missing must not look like what was never asked for. */
export function FoldFailures({ status }: { status: FoldStatus }) {
  const { failures, total } = status;
  if (failures.length === 0) return null;
  return (
    <Notice
      kind="warning"
      title={`${failures.length} of ${total} ${total === 1 ? "record" : "records"} failed and ${failures.length === 1 ? "has" : "have"} no structure`}
    >
      <ul className={classes.failures} data-failures={failures.length}>
        {failures.slice(0, FIRST).map(({ record, message, hint }, index) => (
          <li key={index}>
            <strong className="mono">{record}</strong>: {message}
            {hint && <span className="muted"> ({hint})</span>}
          </li>
        ))}
      </ul>
      {failures.length > FIRST && (
        <p className={classes.note}>
          {failures.length - FIRST} more are listed in the status, under downloads.
        </p>
      )}
    </Notice>
  );
}
