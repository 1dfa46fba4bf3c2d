import { type InfiniteData, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";

import { keys } from "@/api/queries";
import type { RunSummary } from "@/api/types";
import { applyToRows } from "./reducer";
import { readAnew, SnapshotFollower } from "./snapshot";
import { EventStream, type FeedEvent, type StreamStatus } from "./stream";

interface Page {
  items: RunSummary[];
  next?: string | null;
}

/** Keeps every cached list of runs up to date; a new run makes the lists be fetched again. */
export function useRunsFeed(): StreamStatus {
  const client = useQueryClient();
  const [status, setStatus] = useState<StreamStatus>("connecting");

  useEffect(() => {
    const follower = new SnapshotFollower(client, { queryKey: keys.runs }, (events) =>
      client.setQueriesData<InfiniteData<Page>>({ queryKey: keys.runs }, (data) =>
        data
          ? {
              ...data,
              pages: data.pages.map((page) => ({ ...page, items: applyToRows(page.items, events) })),
            }
          : data,
      ),
    );
    const onEvents = (events: FeedEvent[]) => {
      follower.receive(events);
      if (events.some((event) => event.kind === "run.created")) {
        void readAnew(client, { queryKey: keys.runs });
      }
    };
    const stream = new EventStream("/api/v1/events", {
      onEvents,
      onStatus: setStatus,
      onResync: () => void readAnew(client, { queryKey: keys.runs }),
    });
    return () => {
      stream.close();
      follower.close();
    };
  }, [client]);

  return status;
}
