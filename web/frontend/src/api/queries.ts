/** Every read the pages make, as query options: one key and one way to fetch for each. */
import { infiniteQueryOptions, queryOptions } from "@tanstack/react-query";

import type { RunState } from "./types";
import { api, isSignedOut, unwrap } from "./client";

const PAGE_SIZE = 50;

export interface RunFilter {
  state?: RunState;
  q?: string;
}

export const keys = {
  session: ["session"] as const,
  health: ["health"] as const,
  runs: ["runs"] as const,
  run: (id: string) => ["run", id] as const,
  step: (run: string, step: string) => ["run", run, "step", step] as const,
  runArtifacts: (id: string) => ["run", id, "artifacts"] as const,
  cluster: ["cluster"] as const,
};

/** Who is signed in; null when nobody is. */
export const sessionQuery = queryOptions({
  queryKey: keys.session,
  queryFn: async () => {
    try {
      return await unwrap(api.GET("/api/v1/session"));
    } catch (error) {
      if (isSignedOut(error)) return null;
      throw error;
    }
  },
  staleTime: Infinity,
});

export const healthQuery = queryOptions({
  queryKey: keys.health,
  queryFn: () => unwrap(api.GET("/api/v1/health")),
  refetchInterval: (query) => (query.state.data?.cluster.state === "ready" ? 30_000 : 3_000),
});

/** The list of runs, newest first, page by page. */
export function runsQuery(filter: RunFilter) {
  return infiniteQueryOptions({
    queryKey: [...keys.runs, filter],
    queryFn: ({ pageParam, signal }) =>
      unwrap(
        api.GET("/api/v1/runs", {
          params: {
            query: {
              cursor: pageParam,
              limit: PAGE_SIZE,
              q: filter.q,
              state: filter.state ? [filter.state] : undefined,
            },
          },
          signal,
        }),
      ),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next ?? null,
  });
}

export function runQuery(id: string) {
  return queryOptions({
    queryKey: keys.run(id),
    queryFn: ({ signal }) => unwrap(api.GET("/api/v1/runs/{run}", { params: { path: { run: id } }, signal })),
  });
}

export function stepQuery(run: string, step: string) {
  return queryOptions({
    queryKey: keys.step(run, step),
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/runs/{run}/steps/{step}", { params: { path: { run, step } }, signal })),
  });
}

export function whyQuery(run: string, step: string, state: string) {
  return queryOptions({
    queryKey: [...keys.step(run, step), "why", state],
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/runs/{run}/steps/{step}/why", { params: { path: { run, step } }, signal })),
  });
}

export function runArtifactsQuery(id: string) {
  return queryOptions({
    queryKey: keys.runArtifacts(id),
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/runs/{run}/artifacts", { params: { path: { run: id } }, signal })),
  });
}

/** The public weights there are; asked for again while some of them are being read for the first time. */
export const weightsQuery = queryOptions({
  queryKey: ["weights"],
  queryFn: () => unwrap(api.GET("/api/v1/weights")),
  refetchInterval: (query) =>
    query.state.data?.items.some(({ state }) => state === "waiting" || state === "reading") ? 1_000 : 30_000,
});

export const workflowsQuery = queryOptions({
  queryKey: ["workflows"],
  queryFn: () => unwrap(api.GET("/api/v1/workflows")),
  staleTime: 60_000,
});

export function workflowQuery(name: string) {
  return queryOptions({
    queryKey: ["workflow", name],
    queryFn: () => unwrap(api.GET("/api/v1/workflows/{name}", { params: { path: { name } } })),
    staleTime: 60_000,
  });
}

export const operatorsQuery = queryOptions({
  queryKey: ["operators"],
  queryFn: () => unwrap(api.GET("/api/v1/operators")),
  staleTime: Infinity,
});

export const clusterQuery = queryOptions({
  queryKey: keys.cluster,
  queryFn: ({ signal }) => unwrap(api.GET("/api/v1/cluster", { signal })),
  refetchInterval: 3_000,
});

/** An artifact without its bytes: name, size and, for a tree, its files. Never changes. */
export function artifactQuery(digest: string) {
  return queryOptions({
    queryKey: ["artifact", digest],
    queryFn: () => unwrap(api.GET("/api/v1/artifacts/{digest}", { params: { path: { digest } } })),
    staleTime: Infinity,
  });
}
