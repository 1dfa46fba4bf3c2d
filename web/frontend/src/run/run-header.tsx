import { Button } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";

import { api, unwrap } from "@/api/client";
import { keys } from "@/api/queries";
import { isFinished, type Run } from "@/api/types";
import type { RunFeed } from "@/events/use-run-feed";
import { ConfirmDialog } from "@/ui/confirm-dialog";
import { ConnectionNote } from "@/ui/connection-note";
import { CopyButton } from "@/ui/copy";
import { LinkButton } from "@/ui/link-button";
import { ProblemAlert } from "@/ui/problem-alert";
import { ProgressBar } from "@/ui/progress-bar";
import { StateLabel } from "@/ui/state";
import { Age, Elapsed } from "@/ui/time";
import classes from "./run.module.css";

/** Name, id, state and times of a run. */
export function RunHeading({ run, feed }: { run: Run; feed: RunFeed }) {
  const finished = isFinished(run.state);
  const cancelling = run.cancel_requested && !finished;
  return (
    <>
      <h1>{run.name}</h1>
      <div className={classes.facts} data-run-state={run.state}>
        <StateLabel state={run.state} word={cancelling ? "Cancelling" : undefined} />
        <span className={classes.id}>
          <span className="mono">{run.id}</span>
          <CopyButton value={run.id} what="run id" />
        </span>
        <span>{run.workflow.name}</span>
        <span>
          created <Age time={run.created_at} />
        </span>
        <span>
          {finished ? "took " : "running for "}
          <Elapsed start={run.started_at} end={run.finished_at} running={run.state === "running"} />
        </span>
        {run.resumed_from && (
          <span>
            resumed from{" "}
            <Link to="/runs/$id" params={{ id: run.resumed_from }} className="mono">
              {run.resumed_from}
            </Link>
          </span>
        )}
        <ConnectionNote status={feed.status} />
      </div>
      {!finished && (
        <div className={classes.progress}>
          <ProgressBar value={run.progress} label="Progress of the run" />
          <span>{Math.round(run.progress * 100)} %</span>
        </div>
      )}
    </>
  );
}

/** What can be done with a run in its present state. */
export function RunActions({ run }: { run: Run }) {
  const finished = isFinished(run.state);
  const resumable = run.state === "failed" || run.state === "cancelled";
  return (
    <>
      {run.state === "succeeded" && (
        <LinkButton to="/runs/$id/results" params={{ id: run.id }}>
          Results
        </LinkButton>
      )}
      {!finished && <CancelButton run={run} />}
      {resumable && <ResumeButton run={run} />}
      <LinkButton to="/new" search={{ from: run.id, tab: "yaml" }} variant="default">
        Run again
      </LinkButton>
    </>
  );
}

function CancelButton({ run }: { run: Run }) {
  const client = useQueryClient();
  const [asking, { open, close }] = useDisclosure(false);
  const cancel = useMutation({
    mutationFn: () => unwrap(api.POST("/api/v1/runs/{run}/cancel", { params: { path: { run: run.id } } })),
    onSuccess: (updated) => {
      client.setQueryData(keys.run(run.id), updated);
      close();
    },
  });
  return (
    <>
      <Button variant="default" onClick={open} disabled={run.cancel_requested}>
        {run.cancel_requested ? "Cancelling…" : "Cancel"}
      </Button>
      <ConfirmDialog
        open={asking}
        title="Cancel this run?"
        onClose={close}
        actions={
          <>
            <Button variant="default" onClick={close} autoFocus>
              Keep running
            </Button>
            <Button color="red" loading={cancel.isPending} onClick={() => cancel.mutate()}>
              Cancel run
            </Button>
          </>
        }
      >
        <p>
          Running steps are stopped. What has finished is kept, and <strong>Resume</strong> goes on from
          there.
        </p>
        {cancel.isError && <ProblemAlert title="The run was not cancelled" error={cancel.error} />}
      </ConfirmDialog>
    </>
  );
}

function ResumeButton({ run }: { run: Run }) {
  const navigate = useNavigate();
  const resume = useMutation({
    mutationFn: () => unwrap(api.POST("/api/v1/runs/{run}/resume", { params: { path: { run: run.id } } })),
    onSuccess: (resumed) => void navigate({ to: "/runs/$id", params: { id: resumed.id } }),
  });
  return (
    <>
      <Button loading={resume.isPending} onClick={() => resume.mutate()}>
        Resume
      </Button>
      {resume.isError && <ProblemAlert title="The run was not resumed" error={resume.error} />}
    </>
  );
}
