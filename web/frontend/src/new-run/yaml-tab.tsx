import { Button } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { lazy, Suspense, useEffect, useMemo, useRef, useState } from "react";

import { api, unwrap } from "@/api/client";
import { operatorsQuery, workflowQuery, workflowsQuery } from "@/api/queries";
import type { Fault, Port, Run } from "@/api/types";
import type { JsonSchema } from "@/editor/schema-walk";
import type { YamlEditorHandle } from "@/editor/yaml-editor";
import { LoadingLines } from "@/ui/loading";
import { Panel } from "@/ui/page";
import { FaultText, ProblemAlert } from "@/ui/problem-alert";
import { StateLabel } from "@/ui/state";
import { useInputDraft } from "./draft";
import classes from "./new-run.module.css";
import { PreparedRun } from "./prepared-run";

const YamlEditor = lazy(async () => ({ default: (await import("@/editor/yaml-editor")).YamlEditor }));

const CHECK_DELAY = 400;
const KEPT_UNDER = "foldase.draft.yaml";
const NO_PORTS: Port[] = [];
const NO_FAULTS: Fault[] = [];

/** Write a workflow; the server checks it while it is written. */
export function YamlTab({ earlier }: { earlier: Run | undefined }) {
  const [source, setSource] = useState(() => earlier?.source ?? sessionStorage.getItem(KEPT_UNDER) ?? "");
  const editor = useRef<YamlEditorHandle>(null);
  const vocabulary = useVocabulary();
  const [settled] = useDebouncedValue(source, CHECK_DELAY);
  const check = useQuery({
    queryKey: ["check", settled],
    queryFn: ({ signal }) =>
      unwrap(api.POST("/api/v1/check", { body: { source: settled, file: "workflow.yaml" }, signal })),
    enabled: settled.trim() !== "",
    placeholderData: keepPreviousData,
  });

  useEffect(() => {
    if (!earlier) sessionStorage.setItem(KEPT_UNDER, source);
  }, [earlier, source]);

  const empty = source.trim() === "";
  const answer = empty ? undefined : check.data;
  const current = settled === source && !check.isPlaceholderData;
  const ports = answer?.workflow?.inputs ?? NO_PORTS;
  const faults = answer?.errors ?? NO_FAULTS;
  const draft = useInputDraft(ports, earlier?.inputs);

  return (
    <PreparedRun
      subject={{ source }}
      ports={answer?.workflow ? ports : null}
      draft={draft}
      ready={current && answer?.ok === true}
      before={
        <Panel title="Workflow" actions={<ExampleButton hasText={!empty} onUse={setSource} />} flush>
          <Suspense fallback={<LoadingLines lines={10} what="the editor" />}>
            <YamlEditor
              value={source}
              onChange={setSource}
              faults={faults}
              vocabulary={vocabulary}
              label="Workflow as YAML"
              handle={editor}
            />
          </Suspense>
          <div
            className={classes.checked}
            aria-live="polite"
            data-check={checkState(empty, current, answer?.ok)}
          >
            {check.isError && (
              <ProblemAlert
                title="The document could not be checked"
                error={check.error}
                onRetry={() => void check.refetch()}
              />
            )}
            {empty && <span className="muted">Write a workflow, or begin with the example.</span>}
            {!empty && !answer && !check.isError && <span className="muted">Checking…</span>}
            {answer?.ok && (
              <StateLabel state="succeeded" word={summary(answer.workflow?.steps.length ?? 0)} />
            )}
            {faults.length > 0 && (
              <FaultList faults={faults} onJump={(fault) => editor.current?.jumpTo(fault)} />
            )}
          </div>
          <p className={classes.keys}>
            Ctrl+Space completes. Tab indents; press Escape and then Tab to leave the editor.
          </p>
        </Panel>
      }
    />
  );
}

function checkState(empty: boolean, current: boolean, ok: boolean | undefined): string {
  if (empty) return "empty";
  if (!current || ok === undefined) return "checking";
  return ok ? "ok" : "faults";
}

function summary(steps: number): string {
  return `No errors, ${steps} step${steps === 1 ? "" : "s"}`;
}

function FaultList({ faults, onJump }: { faults: readonly Fault[]; onJump: (fault: Fault) => void }) {
  return (
    <>
      <StateLabel state="failed" word={faults.length === 1 ? "1 error" : `${faults.length} errors`} />
      <ul className={classes.faults}>
        {faults.map((fault, index) => (
          <li key={index}>
            <button type="button" onClick={() => onJump(fault)}>
              <FaultText fault={fault} />
            </button>
          </li>
        ))}
      </ul>
    </>
  );
}

/** Puts the first workflow of the catalog into the editor. Asks first when there is something to lose. */
function ExampleButton({ hasText, onUse }: { hasText: boolean; onUse: (source: string) => void }) {
  const list = useQuery(workflowsQuery);
  const first = list.data?.items[0]?.name;
  const example = useQuery({ ...workflowQuery(first ?? ""), enabled: first !== undefined });
  const [asking, setAsking] = useState(false);
  const use = () => {
    setAsking(false);
    if (example.data) onUse(example.data.source);
  };
  if (asking) {
    return (
      <span className={classes.asking}>
        Replace your text?
        <Button size="compact-xs" color="red" onClick={use}>
          Replace
        </Button>
        <Button size="compact-xs" variant="default" onClick={() => setAsking(false)}>
          Keep
        </Button>
      </span>
    );
  }
  return (
    <Button
      size="compact-sm"
      variant="default"
      disabled={!example.data}
      onClick={() => (hasText ? setAsking(true) : use())}
    >
      Example
    </Button>
  );
}

function useVocabulary() {
  const operators = useQuery(operatorsQuery);
  const schema = useQuery({
    queryKey: ["schema", "workflow-1"],
    queryFn: () => unwrap(api.GET("/api/v1/schema/workflow-1.json")) as Promise<JsonSchema>,
    staleTime: Infinity,
  });
  return useMemo(
    () => ({ operators: operators.data?.items ?? [], schema: schema.data ?? null }),
    [operators.data, schema.data],
  );
}
