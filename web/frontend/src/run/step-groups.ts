/** Steps as the graph and the table show them: the items of a scattered step belong together. */
import { isGathering, type StepSummary } from "@/api/types";
import { type ShownState, shownState } from "@/ui/state";

export interface StepGroup {
  name: string;
  uses: string;
  after: string[];
  /** One step, or all items of a scattered one. */
  steps: StepSummary[];
  scattered: boolean;
  /** What the row that gathers the items says of them; null for a single step. */
  note: string | null;
  state: ShownState;
  /** 0 to 1. */
  progress: number;
  counts: Partial<Record<ShownState, number>>;
}

/** What decides the state of a group, the most telling first. */
const PRECEDENCE: ShownState[] = [
  "failed",
  "running",
  "ready",
  "pending",
  "cancelled",
  "skipped",
  "succeeded",
  "cached",
];

/** Groups in the order in which their first steps come. */
export function groupSteps(steps: readonly StepSummary[]): StepGroup[] {
  const byName = new Map<string, StepSummary[]>();
  for (const step of steps) {
    const members = byName.get(step.name);
    if (members) members.push(step);
    else byName.set(step.name, [step]);
  }
  return [...byName].map(([name, members]) => toGroup(name, members));
}

function toGroup(name: string, members: StepSummary[]): StepGroup {
  const items = members.filter((step) => step.key !== null);
  const steps = items.length > 0 ? items : members;
  const head = members[0] as StepSummary;
  const gathering = items.length > 0 ? members.find((step) => step.key === null) : undefined;
  const counts: StepGroup["counts"] = {};
  let progress = 0;
  for (const step of steps) {
    const state = shownState(step);
    counts[state] = (counts[state] ?? 0) + 1;
    progress += step.state === "succeeded" ? 1 : step.state === "running" ? step.progress : 0;
  }
  return {
    name,
    uses: head.uses,
    after: [...new Set(members.flatMap((step) => step.after))],
    steps,
    scattered: items.length > 0,
    note: gathering?.error?.message ?? gathering?.message ?? null,
    state: gathering && gathering.state !== "succeeded" ? gathering.state : groupState(counts, gathering),
    progress: steps.length > 0 ? progress / steps.length : 0,
    counts,
  };
}

/** The state of a group from those of its steps; one that succeeded may have lost some items. */
function groupState(counts: StepGroup["counts"], gathering: StepSummary | undefined): ShownState {
  if (gathering?.state === "succeeded") return counts.cached && !counts.succeeded ? "cached" : "succeeded";
  return PRECEDENCE.find((state) => counts[state]) ?? "pending";
}

/** The step to open for a group: what failed, else what runs, else the first. */
export function mostTelling(group: StepGroup): StepSummary | undefined {
  return (
    group.steps.find((step) => step.state === "failed") ??
    group.steps.find((step) => step.state === "running") ??
    group.steps[0]
  );
}

const TELLING: StepSummary["state"][] = ["failed", "running"];

/** The items of a group, what failed and what runs first, the rest in order. */
export function byInterest(steps: readonly StepSummary[]): StepSummary[] {
  const rank = ({ state }: StepSummary) =>
    TELLING.includes(state) ? TELLING.indexOf(state) : TELLING.length;
  return [...steps].sort((left, right) => rank(left) - rank(right));
}

/**
 * The piece of work that made a run fail: the step its error names, or the first failed item of it where it is
 * scattered, else whatever failed first.
 */
export function firstFailure(
  steps: readonly StepSummary[],
  named: string | null | undefined,
): StepSummary | undefined {
  const failed = steps.filter((step) => step.state === "failed" && !isGathering(step));
  failed.sort((left, right) => (left.finished_at ?? "").localeCompare(right.finished_at ?? ""));
  return failed.find((step) => step.id === named) ?? failed.find((step) => step.name === named) ?? failed[0];
}

/**
 * The dependencies to draw, by name of the dependent group: without those that follow from others, so that
 * the graph shows the order and not every flow of data.
 */
export function directDependencies(groups: readonly StepGroup[]): Map<string, string[]> {
  const known = new Map(groups.map((group) => [group.name, group.after]));
  const ancestors = new Map<string, Set<string>>();
  const ancestorsOf = (name: string): Set<string> => {
    const found = ancestors.get(name);
    if (found) return found;
    const all = new Set<string>();
    ancestors.set(name, all);
    for (const parent of known.get(name) ?? []) {
      all.add(parent);
      for (const older of ancestorsOf(parent)) all.add(older);
    }
    return all;
  };
  return new Map(
    groups.map(({ name, after }) => {
      const parents = after.filter((parent) => known.has(parent));
      const implied = (parent: string) =>
        parents.some((other) => other !== parent && ancestorsOf(other).has(parent));
      return [name, parents.filter((parent) => !implied(parent))];
    }),
  );
}
