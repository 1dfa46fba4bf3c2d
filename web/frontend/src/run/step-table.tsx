import { Button } from "@mantine/core";
import { useMemo, useState } from "react";

import type { StepSummary } from "@/api/types";
import { ProgressBar } from "@/ui/progress-bar";
import { shownState, StateLabel, stateWord, type ShownState } from "@/ui/state";
import table from "@/ui/table.module.css";
import { Elapsed } from "@/ui/time";
import classes from "./run.module.css";
import { byInterest, type StepGroup } from "./step-groups";

const ITEMS_AT_ONCE = 20;

interface StepTableProps {
  groups: StepGroup[];
  selected: string | undefined;
  onSelect: (step: string) => void;
}

/** Every step as text: the same as the graph, for keyboards, screen readers and small screens. */
export function StepTable({ groups, selected, onSelect }: StepTableProps) {
  return (
    <table className={table.table}>
      <thead>
        <tr>
          <th scope="col">State</th>
          <th scope="col">Step</th>
          <th scope="col">Progress</th>
          <th scope="col" className={`${table.number} ${table.wide}`}>
            Attempts
          </th>
          <th scope="col" className={`${table.number} ${table.wide}`}>
            Took
          </th>
        </tr>
      </thead>
      <tbody>
        {groups.map((group) =>
          group.scattered ? (
            <ScatterRows key={group.name} group={group} selected={selected} onSelect={onSelect} />
          ) : (
            group.steps.map((step) => (
              <StepRow key={step.id} step={step} selected={selected === step.id} onSelect={onSelect} />
            ))
          ),
        )}
      </tbody>
    </table>
  );
}

interface StepRowProps {
  step: StepSummary;
  selected: boolean;
  onSelect: (step: string) => void;
  inside?: boolean;
}

function StepRow({ step, selected, onSelect, inside = false }: StepRowProps) {
  const state = shownState(step);
  return (
    <tr data-step={step.id} data-state={state} className={selected ? classes.selectedRow : undefined}>
      <td>
        <StateLabel state={state} />
      </td>
      <td className={inside ? classes.inside : undefined}>
        <button
          type="button"
          className={classes.stepButton}
          aria-current={selected ? "true" : undefined}
          onClick={() => onSelect(step.id)}
        >
          {inside ? step.key : step.id}
        </button>
        {!inside && <span className={classes.uses}>{step.uses}</span>}
      </td>
      <td className={classes.doing}>
        <Doing step={step} />
      </td>
      <td className={`${table.number} ${table.wide}`}>{step.attempts > 0 ? step.attempts : ""}</td>
      <td className={`${table.number} ${table.wide}`}>
        {step.started_at && (
          <Elapsed start={step.started_at} end={step.finished_at} running={step.state === "running"} />
        )}
      </td>
    </tr>
  );
}

function Doing({ step }: { step: StepSummary }) {
  if (step.state === "running") {
    return (
      <>
        <ProgressBar value={step.progress} label={`Progress of ${step.id}`} />
        {step.message && <span className={classes.message}>{step.message}</span>}
      </>
    );
  }
  if (step.state === "failed") return <span className={classes.message}>{step.error?.message}</span>;
  if (step.waiting_for) return <span className={classes.message}>Waiting: {step.waiting_for}</span>;
  if (step.state === "skipped") return <span className={classes.message}>{step.message}</span>;
  return null;
}

interface ScatterRowsProps {
  group: StepGroup;
  selected: string | undefined;
  onSelect: (step: string) => void;
}

function ScatterRows({ group, selected, onSelect }: ScatterRowsProps) {
  const items = useMemo(() => byInterest(group.steps), [group.steps]);
  const selectedAt = items.findIndex((step) => step.id === selected);
  const [open, setOpen] = useState(selectedAt >= 0);
  const [shown, setShown] = useState(ITEMS_AT_ONCE);
  const counts = Object.entries(group.counts)
    .map(([state, count]) => `${count} ${stateWord(state as ShownState).toLowerCase()}`)
    .join(", ");
  return (
    <>
      <tr data-step={group.name} data-state={group.state}>
        <td>
          <StateLabel state={group.state} />
        </td>
        <td>
          <button
            type="button"
            className={classes.stepButton}
            aria-expanded={open}
            onClick={() => setOpen(!open)}
          >
            {open ? "▾" : "▸"} {group.name}
          </button>
          <span className={classes.uses}>
            {group.uses}, {group.steps.length} items
          </span>
        </td>
        <td className={classes.doing}>
          <ProgressBar value={group.progress} label={`Progress of ${group.name}`} />
          <span className={classes.message}>{counts}</span>
          {group.note && <span className={classes.message}>{group.note}</span>}
        </td>
        <td className={table.wide} />
        <td className={table.wide} />
      </tr>
      {open &&
        items
          .slice(0, Math.max(shown, selectedAt + 1))
          .map((step) => (
            <StepRow key={step.id} step={step} selected={selected === step.id} onSelect={onSelect} inside />
          ))}
      {open && Math.max(shown, selectedAt + 1) < items.length && (
        <tr>
          <td />
          <td colSpan={4}>
            <Button size="compact-xs" variant="default" onClick={() => setShown(shown + 5 * ITEMS_AT_ONCE)}>
              Show more of {items.length} items
            </Button>
          </td>
        </tr>
      )}
    </>
  );
}
