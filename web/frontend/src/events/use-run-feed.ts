import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";

import { keys } from "@/api/queries";
import { isFinished, type Run } from "@/api/types";
import { applyGrowth, applyRunEvents, type Growth } from "./reducer";
import { readAnew, SnapshotFollower } from "./snapshot";
import { EventStream, type FeedEvent, type StreamStatus } from "./stream";

export interface RunFeed {
  status: StreamStatus;
  growth: ReadonlyMap<string, Growth>;
}

/** Events that change what the record of a step says. */
const DETAILS: ReadonlySet<string> = new Set(["step.state", "step.plan"]);

const NO_GROWTH: ReadonlyMap<string, Growth> = new Map();

/**
 * Keeps the cached run up to date from its events and says how far logs and metrics have grown.
 * The stream is closed once the run is finished: nothing more will happen.
 */
export function useRunFeed(id: string, finished: boolean): RunFeed {
  const client = useQueryClient();
  const [status, setStatus] = useState<StreamStatus>("connecting");
  const [growth, setGrowth] = useState(NO_GROWTH);

  useEffect(() => setGrowth(NO_GROWTH), [id]);

  useEffect(() => {
    if (finished) {
      setStatus("closed");
      return;
    }
    const follower = new SnapshotFollower(client, { queryKey: keys.run(id), exact: true }, (events) =>
      client.setQueryData<Run>(keys.run(id), (run) => (run ? applyRunEvents(run, events) : run)),
    );
    const onEvents = (events: FeedEvent[]) => {
      follower.receive(events);
      setGrowth((known) => applyGrowth(known, events));
      refreshDetails(events);
    };
    const refreshDetails = (events: FeedEvent[]) => {
      const changed = new Set(events.filter(({ kind }) => DETAILS.has(kind)).map((event) => event.data.step));
      for (const step of changed) if (step) void readAnew(client, { queryKey: keys.step(id, step) });
      if (events.some((event) => event.kind === "run.outputs" || isStepSuccess(event))) {
        void readAnew(client, { queryKey: keys.runArtifacts(id) });
      }
      if (events.some((event) => event.kind === "run.outputs" || isRunEnd(event))) {
        void readAnew(client, { queryKey: keys.run(id), exact: true });
      }
      if (events.some((event) => event.kind === "cluster.state")) {
        void client.invalidateQueries({ queryKey: keys.health });
      }
    };
    const stream = new EventStream(`/api/v1/runs/${encodeURIComponent(id)}/events`, {
      onEvents,
      onStatus: setStatus,
      onResync: () => void readAnew(client, { queryKey: keys.run(id) }),
    });
    return () => {
      stream.close();
      follower.close();
    };
  }, [client, id, finished]);

  return { status, growth };
}

function isStepSuccess({ kind, data }: FeedEvent): boolean {
  return kind === "step.state" && data.state === "succeeded";
}

function isRunEnd({ kind, data }: FeedEvent): boolean {
  return kind === "run.state" && isFinished(data.state as Run["state"]);
}
