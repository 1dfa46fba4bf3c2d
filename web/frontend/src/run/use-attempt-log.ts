import { api, unwrap } from "@/api/client";
import type { LogLine } from "@/api/types";
import { type Growing, usePages } from "./use-pages";

/** Lines kept in the page; of longer logs the beginning is dropped, and the download has all of it. */
const MOST_LINES = 200_000;

/** Reads one page of a log. */
export function fetchLogPage(
  run: string,
  step: string,
  attempt: number,
  offset: number,
  signal?: AbortSignal,
) {
  return unwrap(
    api.GET("/api/v1/runs/{run}/steps/{step}/logs", {
      params: { path: { run, step }, query: { attempt, offset } },
      signal,
    }),
  );
}

/** The log of an attempt up to its present end, and further as `grownTo` (bytes) rises. */
export function useAttemptLog(run: string, step: string, attempt: number, grownTo: number): Growing<LogLine> {
  return usePages({
    identity: `${run}/${step}/${attempt}`,
    enabled: attempt > 0,
    grownTo,
    most: MOST_LINES,
    fetchPage: async (offset, signal) => {
      const page = await fetchLogPage(run, step, attempt, offset, signal);
      return { ...page, items: page.lines.flatMap(splitLines) };
    },
  });
}

// eslint-disable-next-line no-control-regex -- escape sequences are control characters
const ANSI = /\u001b\[[0-9;?]*[A-Za-z]/g;

/** One row per line of text, without terminal colours. */
export function splitLines(line: LogLine): LogLine[] {
  const text = line.message.replace(ANSI, "");
  return text.split("\n").map((message) => ({ ...line, message }));
}
