import { useNavigate } from "@tanstack/react-router";
import { Button } from "@mantine/core";

import type { Run, StepSummary } from "@/api/types";
import { StateIcon } from "@/ui/state";
import { locationText } from "@/ui/problem-alert";
import { firstFailure } from "./step-groups";
import { useAttemptLog } from "./use-attempt-log";
import classes from "./run.module.css";

const LAST_LINES = 12;

const CAUSES: Record<string, string> = {
  oom_host: "Out of memory",
  oom_gpu: "Out of GPU memory",
  timeout: "Timed out",
  worker_lost: "The worker was lost",
  node_lost: "The node was lost",
  user_error: "The step's own code failed",
  bad_input: "Bad input",
  infrastructure: "The platform failed",
};

/** Why a run failed, before anything else: the first failing step, the cause, what to do, the last of its log. */
export function FailureCard({ run }: { run: Run }) {
  const step = firstFailure(run.steps, run.error?.step);
  const error = step?.error ?? run.error;
  const place = locationText(error?.location);
  return (
    <section className={classes.failure} aria-label="Why the run failed" data-cause={error?.cause}>
      <h2>
        <StateIcon state="failed" />
        {CAUSES[error?.cause ?? ""] ?? "Failed"}
        {step && (
          <>
            {" "}
            in <span className="mono">{step.id}</span>
          </>
        )}
      </h2>
      <p className={classes.failureMessage}>
        {place && <span className="mono">{place}: </span>}
        {error?.message ?? "No reason was recorded."} {error?.code && <code>{error.code}</code>}
      </p>
      {error?.hint && <p>{error.hint}</p>}
      {run.error?.message && run.error.message !== error?.message && <p>{run.error.message}</p>}
      {step && <LastLines run={run.id} step={step} />}
      {step && <OpenStep step={step.id} />}
    </section>
  );
}

function OpenStep({ step }: { step: string }) {
  const navigate = useNavigate({ from: "/runs/$id" });
  return (
    <Button
      size="xs"
      variant="default"
      onClick={() =>
        void navigate({ search: (previous) => ({ ...previous, tab: "steps", step }), resetScroll: false })
      }
    >
      Open the step
    </Button>
  );
}

function LastLines({ run, step }: { run: string; step: StepSummary }) {
  const log = useAttemptLog(run, step.id, step.attempt, 0);
  const lines = log.items.slice(-LAST_LINES);
  if (lines.length === 0) return null;
  return (
    <pre className={classes.lastLines} tabIndex={0} aria-label="The last lines of the log">
      {lines.map((line) => line.message).join("\n")}
    </pre>
  );
}
