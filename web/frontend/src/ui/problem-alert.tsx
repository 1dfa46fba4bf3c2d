import { Button } from "@mantine/core";

import { asProblem } from "@/api/problem";
import type { Fault } from "@/api/types";
import classes from "./notice.module.css";

interface ProblemAlertProps {
  error: unknown;
  /** What was being done, as the start of a sentence: "The run could not be loaded". */
  title: string;
  onRetry?: () => void;
}

/** An error as people need it: what failed, why, what to do about it, and its code for a search. */
export function ProblemAlert({ error, title, onRetry }: ProblemAlertProps) {
  const problem = asProblem(error);
  return (
    <div className={`${classes.notice} ${classes.danger}`} role="alert" data-code={problem.code}>
      <p className={classes.title}>{title}</p>
      <FaultText fault={problem} />
      {problem.errors.length > 1 && (
        <ul className={classes.list}>
          {problem.errors.map((fault, index) => (
            <li key={index}>
              <FaultText fault={fault} />
            </li>
          ))}
        </ul>
      )}
      {onRetry && (
        <Button variant="default" size="xs" mt={8} onClick={onRetry}>
          Try again
        </Button>
      )}
    </div>
  );
}

/** Where a fault lies, in the order file, line, column, path, record. */
export function locationText(location: Fault["location"] | undefined): string {
  if (!location) return "";
  const place = [location.file, location.line, location.column].filter((part) => part != null).join(":");
  const record = location.record ? `record ${location.record}` : "";
  return [place, location.path, record].filter(Boolean).join(", ");
}

interface FaultTextProps {
  fault: { code: string; message: string; hint?: string | null; location?: Fault["location"] };
}

/** Message, place and hint of one fault, and its code. */
export function FaultText({ fault }: FaultTextProps) {
  const place = locationText(fault.location);
  return (
    <div>
      <p className={classes.message}>
        {place && <span className="mono">{place}: </span>}
        {fault.message} <code className={classes.code}>{fault.code}</code>
      </p>
      {fault.hint && <p className={classes.hint}>{fault.hint}</p>}
    </div>
  );
}
