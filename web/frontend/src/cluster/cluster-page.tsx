import { useQuery } from "@tanstack/react-query";

import { clusterQuery } from "@/api/queries";
import type { Cluster } from "@/api/types";
import { OutsideIcon } from "@/ui/icons";
import { LoadingLines } from "@/ui/loading";
import { Empty, Notice } from "@/ui/notice";
import { Page, Panel } from "@/ui/page";
import { ProblemAlert } from "@/ui/problem-alert";
import { Button } from "@mantine/core";
import classes from "./cluster.module.css";
import { NodeCards } from "./node-cards";
import { QueueTable, WorkersTable } from "./work-tables";

export function ClusterPage() {
  const cluster = useQuery(clusterQuery);
  return (
    <Page
      title="Cluster"
      state={cluster.data ? "ready" : cluster.isError ? "error" : "loading"}
      actions={cluster.data && <DashboardLink cluster={cluster.data} />}
    >
      {cluster.isError && (
        <ProblemAlert
          title="The state of the cluster could not be read"
          error={cluster.error}
          onRetry={() => void cluster.refetch()}
        />
      )}
      {cluster.isPending && <LoadingLines lines={6} what="the cluster" />}
      {cluster.data && <LoadedCluster cluster={cluster.data} />}
    </Page>
  );
}

/** The dashboard belongs to Ray and is there only while Ray is. */
function DashboardLink({ cluster }: { cluster: Cluster }) {
  if (cluster.state !== "ready") return null;
  return (
    <Button
      component="a"
      href={cluster.dashboard}
      target="_blank"
      rel="noreferrer"
      variant="default"
      rightSection={<OutsideIcon />}
    >
      Open the Ray dashboard
    </Button>
  );
}

const STATES: Record<Cluster["state"], string> = {
  starting: "Starting",
  ready: "Ready",
  lost: "Does not answer",
  stopped: "Stopped",
};

function LoadedCluster({ cluster }: { cluster: Cluster }) {
  return (
    <div className={classes.stack} data-cluster={cluster.state}>
      <p className={classes.state}>
        <strong>{STATES[cluster.state]}</strong>
        {cluster.message && cluster.message !== cluster.state && (
          <span className="muted"> {cluster.message}</span>
        )}
      </p>
      {cluster.nodes.length > 0 ? (
        <NodeCards nodes={cluster.nodes} />
      ) : cluster.state === "ready" ? (
        <Notice kind="warning" title="The cluster has no nodes">
          Nothing can run until a node joins.
        </Notice>
      ) : (
        <Empty title={cluster.state === "starting" ? "The cluster is starting" : "No nodes"}>
          <p className="muted">
            {cluster.state === "starting"
              ? "This takes up to a minute. Runs that are submitted now begin by themselves."
              : "Start it with `foldase up`. Runs wait meanwhile."}
          </p>
        </Empty>
      )}
      <Panel title="Workers" flush>
        <WorkersTable workers={cluster.workers} />
      </Panel>
      <Panel title="Queue" flush>
        <QueueTable queue={cluster.queue} />
      </Panel>
    </div>
  );
}
