import { useQuery } from "@tanstack/react-query";
import { getRouteApi, Link } from "@tanstack/react-router";
import { useMemo } from "react";

import { runArtifactsQuery, runQuery } from "@/api/queries";
import { isFinished, type Run, type RunArtifact } from "@/api/types";
import { useRunFeed } from "@/events/use-run-feed";
import { LinkButton } from "@/ui/link-button";
import { LoadingLines } from "@/ui/loading";
import { Empty } from "@/ui/notice";
import { Page } from "@/ui/page";
import { ProblemAlert } from "@/ui/problem-alert";
import { Downloads } from "./downloads";
import { FoldFailures } from "./fold-failures";
import { findOutputs } from "./outputs";
import { PredictionsView } from "./predictions-view";
import classes from "./results.module.css";
import { readValues } from "./run-values";
import { ScorePanel } from "./score-table";
import { useFoldResults } from "./use-fold-results";
import { ValuesPanel } from "./values-panel";

const route = getRouteApi("/runs/$id/results");

export function ResultsPage() {
  const { id } = route.useParams();
  const run = useQuery(runQuery(id));
  const artifacts = useQuery(runArtifactsQuery(id));
  useRunFeed(id, run.data ? isFinished(run.data.state) : false);
  const failed = run.isError ? run : artifacts.isError ? artifacts : null;

  if (failed) {
    return (
      <Page title="Results" state="error">
        <ProblemAlert
          title="The results could not be loaded"
          error={failed.error}
          onRetry={() => void failed.refetch()}
        />
      </Page>
    );
  }
  if (!run.data || !artifacts.data) {
    return (
      <Page title="Results" state="loading">
        <LoadingLines lines={8} what="the results" />
      </Page>
    );
  }
  return <LoadedResults run={run.data} items={artifacts.data.items} />;
}

function LoadedResults({ run, items }: { run: Run; items: RunArtifact[] }) {
  const outputs = useMemo(() => findOutputs(items), [items]);
  const folds = useFoldResults(outputs);
  const values = useMemo(() => readValues(run.outputs), [run.outputs]);
  const hasValues = values.tables.length > 0 || values.others.length > 0;
  const nothing = outputs.predictions.length === 0 && outputs.tables.length === 0 && !hasValues;
  const scores = outputs.tables.map(({ artifact }) => (
    <ScorePanel key={artifact.digest} artifact={artifact} />
  ));
  return (
    <Page
      title={`Results of ${run.name}`}
      heading={
        <>
          <h1>Results of {run.name}</h1>
          <p className={classes.sub}>
            <Link to="/runs/$id" params={{ id: run.id }}>
              Run {run.id}
            </Link>
            , {run.workflow.name}
          </p>
        </>
      }
      actions={
        <LinkButton to="/runs/$id" params={{ id: run.id }} variant="default">
          To the run
        </LinkButton>
      }
    >
      {nothing && <NoResults run={run} />}
      {folds?.statuses.map(({ shown, value }) => (
        <FoldFailures key={shown.artifact.digest} status={value} />
      ))}
      {outputs.predictions.length === 0 && scores}
      {outputs.predictions.length > 0 && !folds && <LoadingLines lines={8} what="the predictions" />}
      {outputs.predictions.length > 0 && folds && (
        <PredictionsView outputs={outputs} folds={folds} scores={scores} />
      )}
      {hasValues && <ValuesPanel values={values} />}
      {items.length > 0 && <Downloads outputs={outputs} run={run.id} />}
    </Page>
  );
}

function NoResults({ run }: { run: Run }) {
  return (
    <Empty title={isFinished(run.state) ? "Nothing to draw" : "No results yet"}>
      <p className="muted">
        {isFinished(run.state)
          ? "This run made no contact maps and no scores. What it made can be downloaded from its artifacts."
          : "Contact maps and scores appear here as the steps that make them finish."}
      </p>
      <LinkButton
        to="/runs/$id"
        params={{ id: run.id }}
        search={{ tab: isFinished(run.state) ? "artifacts" : "steps" }}
      >
        {isFinished(run.state) ? "To the artifacts" : "Watch the run"}
      </LinkButton>
    </Empty>
  );
}
