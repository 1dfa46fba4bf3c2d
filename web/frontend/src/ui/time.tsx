import { formatAge, formatDuration, secondsBetween } from "./format";
import { useNow } from "./use-now";

/** How long ago something was; the tooltip has the time here and in UTC. */
export function Age({ time }: { time: string }) {
  const now = useNow(true, 30_000);
  const title = `${new Date(time).toLocaleString("en-GB")} here, ${new Date(time).toISOString()} UTC`;
  return (
    <time dateTime={time} title={title}>
      {formatAge(time, now)}
    </time>
  );
}

interface ElapsedProps {
  start: string | null | undefined;
  end: string | null | undefined;
  /** Whether time still passes; a queued or finished thing has a fixed value. */
  running: boolean;
}

/** The time a run or a step has taken so far. */
export function Elapsed({ start, end, running }: ElapsedProps) {
  const now = useNow(running);
  if (!start) return <span className="muted">not started</span>;
  return <span>{formatDuration(secondsBetween(start, end, now))}</span>;
}
