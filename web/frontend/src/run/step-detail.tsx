import { ActionIcon, NativeSelect, Tabs } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";

import { stepQuery } from "@/api/queries";
import type { StepDetail, StepSummary } from "@/api/types";
import type { Growth } from "@/events/reducer";
import { CloseIcon } from "@/ui/icons";
import { LoadingLines } from "@/ui/loading";
import { FaultText, ProblemAlert } from "@/ui/problem-alert";
import { ProgressBar } from "@/ui/progress-bar";
import { shownState, StateLabel } from "@/ui/state";
import { Elapsed } from "@/ui/time";
import { AttemptsTable } from "./attempts-table";
import { Curves } from "./curves";
import { LogView } from "./log-view";
import classes from "./run.module.css";
import { StepValues } from "./step-values";
import { WhyPanel } from "./why-panel";

interface StepDetailPanelProps {
  run: string;
  summary: StepSummary;
  growth: Growth | undefined;
  onClose: () => void;
}

/** One step, opened: its state from the events, everything else from its own record. */
export function StepDetailPanel({ run, summary, growth, onClose }: StepDetailPanelProps) {
  const detail = useQuery(stepQuery(run, summary.id));
  return (
    <section
      className={classes.detail}
      aria-label={`Step ${summary.id}`}
      data-open-step={summary.id}
      data-step-state={summary.state}
    >
      <div className={classes.detailHead}>
        <h2>
          <span className="mono">{summary.id}</span>
        </h2>
        <ActionIcon variant="subtle" color="gray" size={28} aria-label="Close the step" onClick={onClose}>
          <CloseIcon />
        </ActionIcon>
      </div>
      <div className={classes.facts}>
        <StateLabel state={shownState(summary)} />
        <span>{summary.uses}</span>
        {summary.attempt > 1 && <span>attempt {summary.attempt}</span>}
        <Elapsed start={summary.started_at} end={summary.finished_at} running={summary.state === "running"} />
      </div>
      {summary.state === "running" && (
        <div className={classes.progress}>
          <ProgressBar value={summary.progress} label={`Progress of ${summary.id}`} />
          <span>{Math.round(summary.progress * 100)} %</span>
        </div>
      )}
      {summary.message && summary.state !== "succeeded" && (
        <p className={classes.stepMessage}>{summary.message}</p>
      )}
      {summary.waiting_for && <p className={classes.stepMessage}>Waiting: {summary.waiting_for}</p>}
      {summary.error?.message && (
        <div className={classes.stepError}>
          <FaultText
            fault={{ ...summary.error, code: summary.error.code ?? "", message: summary.error.message }}
          />
        </div>
      )}
      {detail.isError && (
        <ProblemAlert
          title="The step could not be loaded"
          error={detail.error}
          onRetry={() => void detail.refetch()}
        />
      )}
      {detail.isPending && <LoadingLines what="the step" />}
      {detail.data && <DetailTabs run={run} summary={summary} detail={detail.data} growth={growth} />}
    </section>
  );
}

interface DetailTabsProps {
  run: string;
  summary: StepSummary;
  detail: StepDetail;
  growth: Growth | undefined;
}

function DetailTabs({ run, summary, detail, growth }: DetailTabsProps) {
  const [chosen, setChosen] = useState<number | null>(null);
  const attempt = chosen ?? summary.attempt;
  const grown = growth && growth.attempt === attempt ? growth : undefined;
  const running = summary.state === "running" && attempt === summary.attempt;
  // The end of an attempt counts as growth, so that its last lines are read.
  const settled = running ? 0 : 1;
  return (
    <>
      {summary.attempt > 1 && (
        <NativeSelect
          label="Attempt shown"
          size="xs"
          value={String(attempt)}
          data={Array.from({ length: summary.attempt }, (_, index) => String(index + 1))}
          onChange={(event) => setChosen(Number(event.currentTarget.value))}
        />
      )}
      <Tabs defaultValue="log" keepMounted={false} className={classes.detailTabs}>
        <Tabs.List mb="sm">
          <Tabs.Tab value="log">Log</Tabs.Tab>
          <Tabs.Tab value="curves">Curves</Tabs.Tab>
          <Tabs.Tab value="values">Values</Tabs.Tab>
          <Tabs.Tab value="why">Why</Tabs.Tab>
          <Tabs.Tab value="attempts">Attempts</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="log">
          <LogView
            run={run}
            step={summary.id}
            attempt={attempt}
            running={running}
            grownTo={(grown?.log ?? 0) + settled}
          />
        </Tabs.Panel>
        <Tabs.Panel value="curves">
          <Curves
            run={run}
            step={summary.id}
            attempt={attempt}
            running={running}
            grownTo={(grown?.metrics ?? 0) + settled}
          />
        </Tabs.Panel>
        <Tabs.Panel value="values">
          <StepValues detail={detail} />
        </Tabs.Panel>
        <Tabs.Panel value="why">
          <WhyPanel run={run} step={summary.id} state={summary.state} />
        </Tabs.Panel>
        <Tabs.Panel value="attempts">
          <AttemptsTable detail={detail} />
        </Tabs.Panel>
      </Tabs>
    </>
  );
}
