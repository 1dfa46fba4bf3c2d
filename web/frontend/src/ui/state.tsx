import type { RunState, StepState } from "@/api/types";
import classes from "./state.module.css";

export type ShownState = RunState | StepState | "cached";

const WORDS: Record<ShownState, string> = {
  pending: "Pending",
  ready: "Queued",
  running: "Running",
  succeeded: "Succeeded",
  failed: "Failed",
  cancelled: "Cancelled",
  skipped: "Skipped",
  cached: "Cached",
};

/** The state a step is shown in: a result that came from the cache says so. */
export function shownState(step: { state: StepState; cached?: boolean }): ShownState {
  return step.state === "succeeded" && step.cached ? "cached" : step.state;
}

/** The word for a state. */
export function stateWord(state: ShownState): string {
  return WORDS[state];
}

/** The symbol of a state, told apart by shape as well as by colour. */
export function StateIcon({ state }: { state: ShownState }) {
  return (
    <svg className={`${classes.icon} ${classes[state]}`} viewBox="0 0 16 16" fill="none" aria-hidden="true">
      <g stroke="currentColor" strokeWidth="1.8" strokeLinecap="round" strokeLinejoin="round">
        {SHAPES[state]}
      </g>
    </svg>
  );
}

const SHAPES: Record<ShownState, React.ReactNode> = {
  pending: <circle cx="8" cy="8" r="5.5" strokeDasharray="2.2 2.6" />,
  ready: <circle cx="8" cy="8" r="5.5" />,
  running: (
    <>
      <circle cx="8" cy="8" r="5.5" opacity="0.25" />
      <path className={classes.arc} d="M8 2.5a5.5 5.5 0 0 1 5.5 5.5" />
    </>
  ),
  succeeded: <path d="M3 8.5l3.3 3.3L13 4.8" />,
  failed: <path d="M4 4l8 8M12 4l-8 8" />,
  cancelled: <path d="M3 8h10" />,
  skipped: <path d="M4 4l4 4-4 4M9 4l4 4-4 4" />,
  cached: <path d="M9 2L4 9h4l-1 5 5-7H8z" />,
};

/** A state as icon, word and colour. */
export function StateLabel({ state, word }: { state: ShownState; word?: string }) {
  return (
    <span className={`${classes.state} ${classes[state]}`} data-state={state}>
      <StateIcon state={state} />
      <span>{word ?? WORDS[state]}</span>
    </span>
  );
}
