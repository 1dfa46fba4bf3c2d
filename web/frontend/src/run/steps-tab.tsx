import { getRouteApi } from "@tanstack/react-router";
import { lazy, Suspense, useMemo } from "react";

import { isFinished, type Run } from "@/api/types";
import type { RunFeed } from "@/events/use-run-feed";
import { LoadingLines } from "@/ui/loading";
import { Panel } from "@/ui/page";
import classes from "./run.module.css";
import { StepDetailPanel } from "./step-detail";
import { groupSteps, mostTelling } from "./step-groups";
import { StepTable } from "./step-table";

const StepGraph = lazy(async () => ({ default: (await import("./step-graph")).StepGraph }));

const MOST_NODES = 300;

const route = getRouteApi("/runs/$id");

/** The graph, the table of steps, and the step that is open. */
export function StepsTab({ run, feed }: { run: Run; feed: RunFeed }) {
  const { step: open } = route.useSearch();
  const navigate = route.useNavigate();
  const groups = useMemo(() => groupSteps(run.steps), [run.steps]);
  const selected = run.steps.find((step) => step.id === open);

  const select = (step: string | undefined) =>
    void navigate({ search: (previous) => ({ ...previous, step }), replace: true, resetScroll: false });
  const selectGroup = (name: string) => {
    const group = groups.find((one) => one.name === name);
    const step = group && mostTelling(group);
    if (step) select(step.id);
  };

  if (run.steps.length === 0) {
    return (
      <p className="muted">
        {isFinished(run.state)
          ? "This run ended before any of its steps was made."
          : "The steps appear as soon as the scheduler has taken the run."}
      </p>
    );
  }
  return (
    <div className={selected ? classes.split : classes.whole}>
      <div className={classes.overview}>
        {groups.length <= MOST_NODES && (
          <Panel title="Graph" flush>
            <Suspense fallback={<LoadingLines lines={3} what="the graph" />}>
              <StepGraph groups={groups} selected={selected?.name} onSelect={selectGroup} />
            </Suspense>
          </Panel>
        )}
        <Panel title="Steps" flush>
          <StepTable groups={groups} selected={selected?.id} onSelect={select} />
        </Panel>
      </div>
      {selected && (
        <StepDetailPanel
          key={selected.id}
          run={run.id}
          summary={selected}
          growth={feed.growth.get(selected.id)}
          onClose={() => select(undefined)}
        />
      )}
    </div>
  );
}
