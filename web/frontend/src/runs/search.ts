import type { RunState } from "@/api/types";
import { choiceParam, textParam } from "@/ui/search-params";

export const RUN_STATES = [
  "pending",
  "running",
  "succeeded",
  "failed",
  "cancelled",
] as const satisfies RunState[];

export interface RunsSearch {
  state?: RunState;
  q?: string;
}

/** The filter of the list of runs, as it stands in the address. */
export function runsSearch(search: Record<string, unknown>): RunsSearch {
  return { state: choiceParam(search, "state", RUN_STATES), q: textParam(search, "q") };
}
