import { useQuery } from "@tanstack/react-query";
import { getRouteApi, Link } from "@tanstack/react-router";

import { workflowQuery, workflowsQuery } from "@/api/queries";
import type { WorkflowDetail } from "@/api/types";
import { LoadingLines } from "@/ui/loading";
import { Empty } from "@/ui/notice";
import { Panel } from "@/ui/page";
import { ProblemAlert } from "@/ui/problem-alert";
import { LinkButton } from "@/ui/link-button";
import { useInputDraft } from "./draft";
import classes from "./new-run.module.css";
import { PreparedRun } from "./prepared-run";

const route = getRouteApi("/new");

/** Choose a ready workflow, fill in its form, submit. */
export function CatalogTab() {
  const { workflow } = route.useSearch();
  const list = useQuery(workflowsQuery);
  if (list.isPending) return <LoadingLines what="the catalog" />;
  if (list.isError) {
    return (
      <ProblemAlert
        title="The catalog could not be loaded"
        error={list.error}
        onRetry={() => void list.refetch()}
      />
    );
  }
  const items = list.data.items;
  if (items.length === 0) {
    return (
      <Empty title="The catalog is empty">
        <p className="muted">Write a workflow as YAML instead.</p>
        <LinkButton to="/new" search={{ tab: "yaml" }}>
          To the editor
        </LinkButton>
      </Empty>
    );
  }
  return (
    <>
      <ul className={classes.cards} aria-label="Workflows of the catalog">
        {items.map((item) => (
          <li key={item.name}>
            <Link
              to="/new"
              search={{ tab: "catalog", workflow: item.name }}
              replace
              className={classes.card}
              data-chosen={item.name === workflow}
              resetScroll={false}
            >
              <strong>{item.title || item.name}</strong>
              <span className="mono muted">{item.name}</span>
              <span className={classes.description}>{item.description}</span>
            </Link>
          </li>
        ))}
      </ul>
      {workflow === undefined ? (
        <p className="muted">Choose a workflow to see its inputs.</p>
      ) : (
        <ChosenWorkflow key={workflow} name={workflow} />
      )}
    </>
  );
}

function ChosenWorkflow({ name }: { name: string }) {
  const detail = useQuery(workflowQuery(name));
  if (detail.isPending) return <LoadingLines what="the workflow" />;
  if (detail.isError) {
    return (
      <ProblemAlert
        title={`The workflow ${name} could not be loaded`}
        error={detail.error}
        onRetry={() => void detail.refetch()}
      />
    );
  }
  return <WorkflowForm workflow={detail.data} />;
}

function WorkflowForm({ workflow }: { workflow: WorkflowDetail }) {
  const draft = useInputDraft(workflow.inputs);
  return (
    <PreparedRun
      subject={{ workflow: workflow.name }}
      ports={workflow.inputs}
      draft={draft}
      ready
      extra={
        <Panel label="Source">
          <details>
            <summary>The YAML of this workflow</summary>
            <pre className={classes.source} tabIndex={0}>
              {workflow.source}
            </pre>
          </details>
        </Panel>
      }
    />
  );
}
