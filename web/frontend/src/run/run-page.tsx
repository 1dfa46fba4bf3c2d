import { Tabs } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";

import { runQuery } from "@/api/queries";
import { isFinished, type Run } from "@/api/types";
import { type RunFeed, useRunFeed } from "@/events/use-run-feed";
import { LinkButton } from "@/ui/link-button";
import { LoadingLines } from "@/ui/loading";
import { Page, Panel } from "@/ui/page";
import { ProblemAlert } from "@/ui/problem-alert";
import { ArtifactsTab } from "./artifacts-tab";
import { FailureCard } from "./failure-card";
import { ProvenanceTab } from "./provenance-tab";
import { RunActions, RunHeading } from "./run-header";
import { StepsTab } from "./steps-tab";

const route = getRouteApi("/runs/$id");

export function RunPage() {
  const { id } = route.useParams();
  const run = useQuery(runQuery(id));
  const feed = useRunFeed(id, run.data ? isFinished(run.data.state) : false);

  if (run.data) return <LoadedRun run={run.data} feed={feed} />;
  return (
    <Page
      title={`Run ${id}`}
      state={run.isError ? "error" : "loading"}
      actions={
        run.isError && (
          <LinkButton to="/runs" variant="default">
            All runs
          </LinkButton>
        )
      }
    >
      {run.isError ? (
        <ProblemAlert
          title="The run could not be loaded"
          error={run.error}
          onRetry={() => void run.refetch()}
        />
      ) : (
        <Panel label="Run">
          <LoadingLines lines={8} what="the run" />
        </Panel>
      )}
    </Page>
  );
}

function LoadedRun({ run, feed }: { run: Run; feed: RunFeed }) {
  const { tab } = route.useSearch();
  const navigate = route.useNavigate();
  const choose = (next: string | null) => {
    if (next !== "steps" && next !== "artifacts" && next !== "provenance") return;
    void navigate({ search: (previous) => ({ ...previous, tab: next }), replace: true, resetScroll: false });
  };
  return (
    <Page title={run.name} heading={<RunHeading run={run} feed={feed} />} actions={<RunActions run={run} />}>
      {run.state === "failed" && <FailureCard run={run} />}
      <Tabs value={tab ?? "steps"} onChange={choose} keepMounted={false}>
        <Tabs.List mb="md">
          <Tabs.Tab value="steps">Steps</Tabs.Tab>
          <Tabs.Tab value="artifacts">Artifacts</Tabs.Tab>
          <Tabs.Tab value="provenance">Provenance</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="steps">
          <StepsTab run={run} feed={feed} />
        </Tabs.Panel>
        <Tabs.Panel value="artifacts">
          <ArtifactsTab run={run} />
        </Tabs.Panel>
        <Tabs.Panel value="provenance">
          <ProvenanceTab run={run} />
        </Tabs.Panel>
      </Tabs>
    </Page>
  );
}
