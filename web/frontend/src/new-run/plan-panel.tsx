import { Button, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { keepPreviousData, useMutation, useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useEffect, useMemo, useRef, useState } from "react";

import { api, unwrap } from "@/api/client";
import { asProblem, type Problem } from "@/api/problem";
import { isArtifactValue } from "@/api/types";
import { CommandLine } from "@/ui/copy";
import { LoadingLines } from "@/ui/loading";
import { Notice } from "@/ui/notice";
import { Panel } from "@/ui/page";
import { ProblemAlert } from "@/ui/problem-alert";
import type { Subject } from "./draft";
import { cliCommand, curlCommand } from "./equivalents";
import classes from "./new-run.module.css";
import { PlanSummary } from "./plan-summary";

interface PlanPanelProps {
  subject: Subject;
  inputs: Record<string, unknown>;
  errors: Record<string, string>;
  ready: boolean;
  onTried: () => void;
  onFieldErrors: (errors: Record<string, string>) => void;
}

const PLAN_DELAY = 400;

/** What the run would do and take, and the button that starts it. */
export function PlanPanel({ subject, inputs, errors, ready, onTried, onFieldErrors }: PlanPanelProps) {
  const [name, setName] = useState("");
  const complete = ready && Object.keys(errors).length === 0;
  const body = JSON.stringify({ ...subject, inputs });
  const [settled] = useDebouncedValue(body, PLAN_DELAY);
  const plan = useQuery({
    queryKey: ["plan", settled],
    queryFn: () => unwrap(api.POST("/api/v1/plan", { body: JSON.parse(settled) })),
    enabled: complete && settled === body,
    placeholderData: keepPreviousData,
    retry: false,
  });
  const submit = useSubmit(body, name);
  const refusal = plan.error ?? submit.error;
  const needs = filesNeeded(subject, inputs);

  useEffect(() => onFieldErrors(fieldErrors(refusal)), [refusal, onFieldErrors]);

  return (
    <aside className={classes.right} aria-label="Plan and submit">
      <Panel title="Plan">
        <PlanState plan={plan} complete={complete} ready={ready} missing={Object.keys(errors)} />
      </Panel>
      <Panel title="Start">
        <form
          className={classes.start}
          onSubmit={(event) => {
            event.preventDefault();
            onTried();
            if (complete) submit.mutate();
          }}
        >
          <TextInput
            label="Name"
            description="To find the run again. Optional."
            value={name}
            maxLength={200}
            onChange={(event) => setName(event.currentTarget.value)}
          />
          <Button type="submit" loading={submit.isPending} disabled={!ready} fullWidth>
            Submit run
          </Button>
          {submit.isError && <ProblemAlert title="The run was not started" error={submit.error} />}
        </form>
        <details className={classes.equivalents}>
          <summary>The same from a terminal</summary>
          <p className="muted">Command line{needs && `, in a folder that holds ${needs}`}</p>
          <CommandLine command={cliCommand(subject, inputs, name)} what="command line" />
          <p className="muted">HTTP</p>
          <CommandLine
            command={curlCommand(window.location.origin, subject, inputs, name)}
            what="curl command"
          />
        </details>
      </Panel>
    </aside>
  );
}

/** What a command line would find in the folder it runs in; empty when it needs nothing. */
function filesNeeded(subject: Subject, inputs: Record<string, unknown>): string {
  const values = Object.values(inputs).flatMap((value) => (Array.isArray(value) ? value : [value]));
  return ["source" in subject && "workflow.yaml", values.some(isArtifactValue) && "the files"]
    .filter(Boolean)
    .join(" and ");
}

interface PlanStateProps {
  plan: { data?: Parameters<typeof PlanSummary>[0]["plan"]; error: unknown; isPlaceholderData: boolean };
  complete: boolean;
  ready: boolean;
  missing: string[];
}

function PlanState({ plan, complete, ready, missing }: PlanStateProps) {
  if (!ready) return <p className="muted">The plan appears when the document has no errors.</p>;
  if (!complete) {
    return (
      <p className="muted" data-state="incomplete">
        The plan appears when the inputs are complete. Open:{" "}
        <span className="mono">{missing.join(", ")}</span>.
      </p>
    );
  }
  if (plan.error !== null) return <ProblemAlert title="This cannot be planned" error={plan.error} />;
  if (!plan.data) return <LoadingLines lines={4} what="the plan" />;
  return (
    <>
      {plan.data.cached === plan.data.steps.length && (
        <div className={classes.collected}>
          <Notice title="Everything is computed already">This run will only collect earlier results.</Notice>
        </div>
      )}
      <PlanSummary plan={plan.data} stale={plan.isPlaceholderData} />
    </>
  );
}

/** Submits with a key that stays the same for the same request, so that a retry never starts a second run. */
function useSubmit(body: string, name: string) {
  const navigate = useNavigate();
  const attempt = useRef({ content: "", key: "" });
  const content = useMemo(
    () => JSON.stringify({ ...JSON.parse(body), ...(name ? { name } : {}) }),
    [body, name],
  );
  return useMutation({
    mutationFn: () => {
      if (attempt.current.content !== content) attempt.current = { content, key: crypto.randomUUID() };
      return unwrap(
        api.POST("/api/v1/runs", {
          body: JSON.parse(content),
          headers: { "Idempotency-Key": attempt.current.key },
        }),
      );
    },
    onSuccess: (run) => {
      attempt.current = { content: "", key: "" };
      void navigate({ to: "/runs/$id", params: { id: run.id } });
    },
  });
}

/** Faults that belong to an input, by its name. */
function fieldErrors(error: unknown): Record<string, string> {
  if (error === null) return {};
  const problem: Problem = asProblem(error);
  const faults = problem.errors.length > 0 ? problem.errors : [problem];
  const found: Record<string, string> = {};
  for (const { location, message } of faults) {
    const name = /^inputs\.([^.[]+)/.exec(location?.path ?? "")?.[1];
    if (name) found[name] ??= message;
  }
  return found;
}
