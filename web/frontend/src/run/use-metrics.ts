import { api, unwrap } from "@/api/client";
import type { MetricPoint } from "@/api/types";
import { type Growing, usePages } from "./use-pages";

/** The numbers an attempt has reported, and those it goes on to report as `grownTo` (bytes) rises. */
export function useMetrics(
  run: string,
  step: string,
  attempt: number,
  grownTo: number,
): Growing<MetricPoint> {
  return usePages({
    identity: `${run}/${step}/${attempt}`,
    enabled: attempt > 0,
    grownTo,
    fetchPage: async (offset, signal) => {
      const page = await unwrap(
        api.GET("/api/v1/runs/{run}/steps/{step}/metrics", {
          params: { path: { run, step }, query: { attempt, offset } },
          signal,
        }),
      );
      return { ...page, items: page.points };
    },
  });
}
