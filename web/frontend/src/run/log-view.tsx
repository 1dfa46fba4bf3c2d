import { Button, NativeSelect, TextInput } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useMemo, useRef, useState } from "react";

import type { LogLine } from "@/api/types";
import { downloadText } from "@/ui/download";
import { DownloadIcon, SearchIcon } from "@/ui/icons";
import { LoadingLines } from "@/ui/loading";
import { ProblemAlert } from "@/ui/problem-alert";
import { filterLines, type Level, LEVELS, splitAtMatches } from "./log-filter";
import classes from "./log.module.css";
import { fetchLogPage, useAttemptLog } from "./use-attempt-log";

const ROW = 20;

interface LogViewProps {
  run: string;
  step: string;
  attempt: number;
  running: boolean;
  grownTo: number;
}

/** The log of an attempt: live, filtered, searched; only the visible rows are in the page. */
export function LogView({ run, step, attempt, running, grownTo }: LogViewProps) {
  const log = useAttemptLog(run, step, attempt, grownTo);
  const [level, setLevel] = useState<Level>("debug");
  const [search, setSearch] = useState("");
  const [follow, setFollow] = useState(running);
  const [wrap, setWrap] = useState(true);
  const lines = useMemo(() => filterLines(log.items, level, search), [log.items, level, search]);
  const filtered = lines.length !== log.items.length;

  return (
    <div data-log-lines={log.items.length} data-state={log.loading ? "loading" : "ready"}>
      <div className={classes.tools}>
        <TextInput
          size="xs"
          type="search"
          aria-label="Search the log"
          placeholder="Search"
          leftSection={<SearchIcon />}
          value={search}
          onChange={(event) => setSearch(event.currentTarget.value)}
          className={classes.search}
        />
        <NativeSelect
          size="xs"
          aria-label="Least level shown"
          value={level}
          data={LEVELS.map((one) => ({
            value: one,
            label: one === "debug" ? "all levels" : `${one} and up`,
          }))}
          onChange={(event) => setLevel(event.currentTarget.value as Level)}
        />
        <Button size="xs" variant="default" aria-pressed={wrap} onClick={() => setWrap(!wrap)}>
          {wrap ? "Do not wrap" : "Wrap"}
        </Button>
        {running && (
          <Button size="xs" variant="default" aria-pressed={follow} onClick={() => setFollow(!follow)}>
            {follow ? "Pause" : "Follow"}
          </Button>
        )}
        <DownloadLog run={run} step={step} attempt={attempt} disabled={attempt === 0} />
      </div>
      {log.error !== null && <ProblemAlert title="The log could not be read" error={log.error} />}
      {log.dropped > 0 && (
        <p className={classes.note}>
          The first {log.dropped.toLocaleString("en")} lines are not shown; the download has them.
        </p>
      )}
      {log.items.length === 0 ? (
        <EmptyLog loading={log.loading} attempt={attempt} running={running} />
      ) : (
        <Rows
          key={String(wrap)}
          lines={lines}
          search={search}
          wrap={wrap}
          follow={follow && running}
          onScrollUp={() => setFollow(false)}
        />
      )}
      <p className={classes.note}>
        {filtered
          ? `${lines.length.toLocaleString("en")} of ${log.items.length.toLocaleString("en")} lines`
          : `${log.items.length.toLocaleString("en")} lines`}
      </p>
    </div>
  );
}

function EmptyLog({ loading, attempt, running }: { loading: boolean; attempt: number; running: boolean }) {
  if (loading && attempt > 0) return <LoadingLines lines={3} what="the log" />;
  return (
    <p className="muted">
      {attempt === 0
        ? "No attempt was made, so there is no log."
        : running
          ? "Nothing was written yet."
          : "This attempt wrote nothing."}
    </p>
  );
}

interface RowsProps {
  lines: readonly LogLine[];
  search: string;
  wrap: boolean;
  follow: boolean;
  onScrollUp: () => void;
}

function Rows({ lines, search, wrap, follow, onScrollUp }: RowsProps) {
  const box = useRef<HTMLDivElement>(null);
  const virtualizer = useVirtualizer({
    count: lines.length,
    getScrollElement: () => box.current,
    estimateSize: () => ROW,
    overscan: 12,
  });

  useEffect(() => {
    if (follow && lines.length > 0) virtualizer.scrollToIndex(lines.length - 1, { align: "end" });
  }, [follow, lines.length, virtualizer]);

  return (
    <div
      ref={box}
      className={classes.box}
      style={{ height: virtualizer.getTotalSize() + 2 }}
      tabIndex={0}
      role="region"
      aria-label="Log"
      onWheel={(event) => {
        if (event.deltaY < 0) onScrollUp();
      }}
      onKeyDown={(event) => {
        if (event.key === "PageUp" || event.key === "ArrowUp" || event.key === "Home") onScrollUp();
      }}
    >
      <div className={classes.all} style={{ height: virtualizer.getTotalSize() }} data-wrap={wrap}>
        {virtualizer.getVirtualItems().map((row) => {
          const line = lines[row.index];
          if (!line) return null;
          return (
            <div
              key={row.key}
              ref={wrap ? virtualizer.measureElement : undefined}
              data-index={row.index}
              data-level={line.level}
              className={classes.row}
              style={{ transform: `translateY(${row.start}px)` }}
            >
              <Line line={line} search={search} />
            </div>
          );
        })}
      </div>
    </div>
  );
}

function Line({ line, search }: { line: LogLine; search: string }) {
  return (
    <>
      <span className={classes.time}>{line.time ? new Date(line.time).toLocaleTimeString("en-GB") : ""}</span>
      <span className={classes.level}>{line.level}</span>
      <span className={classes.text}>
        {splitAtMatches(line.message, search).map((part, index) =>
          index % 2 === 1 ? <mark key={index}>{part}</mark> : part,
        )}
      </span>
    </>
  );
}

interface DownloadLogProps {
  run: string;
  step: string;
  attempt: number;
  disabled: boolean;
}

function DownloadLog({ run, step, attempt, disabled }: DownloadLogProps) {
  const download = useMutation({
    mutationFn: async () => {
      const parts: string[] = [];
      for (let offset = 0; ;) {
        const page = await fetchLogPage(run, step, attempt, offset);
        parts.push(...page.lines.map((line) => `${line.time ?? ""}\t${line.level}\t${line.message}\n`));
        if (page.end || page.next <= offset) break;
        offset = page.next;
      }
      downloadText(`${run}-${step}-${attempt}.log`, parts);
    },
  });
  return (
    <Button
      size="xs"
      variant="default"
      leftSection={<DownloadIcon />}
      loading={download.isPending}
      disabled={disabled}
      onClick={() => download.mutate()}
    >
      {download.isError ? "Failed, again?" : "Download"}
    </Button>
  );
}
