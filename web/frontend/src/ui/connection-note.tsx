import type { StreamStatus } from "@/events/stream";
import classes from "./connection-note.module.css";

/** Says whether what is shown is kept up to date. Silent where nothing more will happen. */
export function ConnectionNote({ status }: { status: StreamStatus }) {
  const lost = status === "retrying";
  return (
    <span className={classes.note} data-connection={status} role="status">
      {status === "live" && (
        <>
          <span className={classes.dot} aria-hidden="true" /> Live
        </>
      )}
      {lost && <span className={classes.lost}>Connection lost, retrying</span>}
    </span>
  );
}
