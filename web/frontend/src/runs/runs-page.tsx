import { Button, TextInput } from "@mantine/core";
import { useDebouncedCallback } from "@mantine/hooks";
import { useInfiniteQuery } from "@tanstack/react-query";
import { getRouteApi, Link } from "@tanstack/react-router";
import { useEffect, useState } from "react";

import { runsQuery } from "@/api/queries";
import { useRunsFeed } from "@/events/use-runs-feed";
import { ConnectionNote } from "@/ui/connection-note";
import { SearchIcon } from "@/ui/icons";
import { LinkButton } from "@/ui/link-button";
import { LoadingLines } from "@/ui/loading";
import { Page, Panel } from "@/ui/page";
import { ProblemAlert } from "@/ui/problem-alert";
import { stateWord } from "@/ui/state";
import { NoMatch, NoRuns } from "./no-runs";
import classes from "./runs.module.css";
import { RunsTable } from "./runs-table";
import { RUN_STATES } from "./search";

const route = getRouteApi("/runs");

export function RunsPage() {
  const filter = route.useSearch();
  const runs = useInfiniteQuery(runsQuery(filter));
  const status = useRunsFeed();
  const rows = (runs.data?.pages ?? [])
    .flatMap((page) => page.items)
    .filter((row) => !filter.state || row.state === filter.state);
  const filtered = filter.state !== undefined || filter.q !== undefined;

  return (
    <Page
      title="Runs"
      state={runs.isError ? "error" : runs.isPending ? "loading" : "ready"}
      actions={<LinkButton to="/new">New run</LinkButton>}
    >
      <div className={classes.filters}>
        <StateFilter />
        <SearchBox />
        <ConnectionNote status={status} />
      </div>
      {runs.isError && (
        <ProblemAlert
          title="The runs could not be loaded"
          error={runs.error}
          onRetry={() => void runs.refetch()}
        />
      )}
      {runs.isPending && (
        <Panel label="Runs">
          <LoadingLines lines={8} what="the runs" />
        </Panel>
      )}
      {runs.isSuccess && rows.length === 0 && (filtered ? <NoMatch /> : <NoRuns />)}
      {rows.length > 0 && (
        <Panel label="Runs" flush>
          <RunsTable rows={rows} />
        </Panel>
      )}
      {runs.hasNextPage && (
        <div className={classes.more}>
          <Button
            variant="default"
            loading={runs.isFetchingNextPage}
            onClick={() => void runs.fetchNextPage()}
          >
            Show older runs
          </Button>
        </div>
      )}
    </Page>
  );
}

function StateFilter() {
  const { state } = route.useSearch();
  return (
    <nav className={classes.states} aria-label="State of the runs shown">
      {([undefined, ...RUN_STATES] as const).map((choice) => (
        <Link
          key={choice ?? "all"}
          to="/runs"
          search={(previous) => ({ ...previous, state: choice })}
          data-chosen={state === choice}
          activeOptions={{ exact: true, explicitUndefined: true }}
        >
          {choice ? stateWord(choice) : "All"}
        </Link>
      ))}
    </nav>
  );
}

function SearchBox() {
  const { q } = route.useSearch();
  const navigate = route.useNavigate();
  const [text, setText] = useState(q ?? "");
  const commit = useDebouncedCallback((value: string) => {
    void navigate({ search: (previous) => ({ ...previous, q: value.trim() || undefined }), replace: true });
  }, 300);

  useEffect(() => setText(q ?? ""), [q]);

  return (
    <TextInput
      className={classes.search}
      type="search"
      size="sm"
      aria-label="Search runs by name or id"
      placeholder="Name or id"
      leftSection={<SearchIcon />}
      value={text}
      onChange={(event) => {
        setText(event.currentTarget.value);
        commit(event.currentTarget.value);
      }}
    />
  );
}
