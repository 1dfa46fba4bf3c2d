import { NativeSelect } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";
import type { ReactNode } from "react";

import { groupQuery } from "@/api/artifacts";
import { LoadingLines } from "@/ui/loading";
import { Notice } from "@/ui/notice";
import { ProblemAlert } from "@/ui/problem-alert";
import { entryOfTarget, type FoldResults } from "./folds";
import { type ResultOutputs, type Shown, structuresOf } from "./outputs";
import { RankingTable } from "./ranking-table";
import classes from "./results.module.css";
import { TargetView } from "./target-view";

const route = getRouteApi("/runs/$id/results");

interface PredictionsAttributes {
  targets?: string[];
  contact_cutoff?: number;
  min_separation?: number;
  method?: string;
  /** Set where the mirror image of a structure explains the predictions as well. */
  handedness?: string;
  complete?: boolean;
}

interface PredictionsViewProps {
  outputs: ResultOutputs;
  folds: FoldResults;
  scores: ReactNode;
}

/** Choose the predictions and the target, then look at it. `scores` stand beside the list of contacts. */
export function PredictionsView({ outputs, folds, scores }: PredictionsViewProps) {
  const { predictions: wanted } = route.useSearch();
  const navigate = route.useNavigate();
  const shown =
    outputs.predictions.find(({ artifact }) => artifact.digest === wanted) ?? outputs.predictions[0];
  if (!shown) return null;
  const picker = outputs.predictions.length > 1 && (
    <NativeSelect
      className={classes.picker}
      label="Predictions"
      value={shown.artifact.digest}
      data={outputs.predictions.map(({ label, artifact }) => ({ value: artifact.digest, label }))}
      onChange={(event) => {
        const predictions = event.currentTarget.value;
        void navigate({
          search: (previous) => ({ ...previous, predictions, sel: undefined }),
          replace: true,
          resetScroll: false,
        });
      }}
    />
  );
  return (
    <Targets
      key={shown.artifact.digest}
      shown={shown}
      outputs={outputs}
      folds={folds}
      scores={scores}
      picker={picker}
    />
  );
}

interface TargetsProps {
  shown: Shown;
  outputs: ResultOutputs;
  folds: FoldResults;
  scores: ReactNode;
  picker: ReactNode;
}

function Targets({ shown, outputs, folds, scores, picker }: TargetsProps) {
  const { target: wanted } = route.useSearch();
  const navigate = route.useNavigate();
  const root = useQuery(groupQuery(shown.artifact.digest, ""));
  if (root.isPending) return <LoadingLines lines={6} what="the predictions" />;
  if (root.isError) {
    return (
      <ProblemAlert
        title="The predictions could not be read"
        error={root.error}
        onRetry={() => void root.refetch()}
      />
    );
  }
  const attributes = root.data.attributes as PredictionsAttributes;
  const targets = attributes.targets ?? root.data.groups;
  const target = targets.find((one) => one === wanted) ?? targets[0];
  if (!target) return <Notice kind="warning" title="These predictions hold no targets" />;
  const current = { predictions: shown.artifact.digest, target };
  return (
    <>
      {folds.rankings.map((ranking) => (
        <RankingTable
          key={ranking.shown.artifact.digest}
          ranking={ranking}
          results={folds}
          predictions={outputs.predictions}
          current={current}
        />
      ))}
      <div className={classes.pickers}>
        {picker}
        <NativeSelect
          className={classes.picker}
          label={`Target, ${targets.length} in all`}
          value={target}
          data={targets}
          onChange={(event) => {
            const chosen = event.currentTarget.value;
            void navigate({
              search: (previous) => ({ ...previous, target: chosen, sel: undefined }),
              replace: true,
              resetScroll: false,
            });
          }}
        />
      </div>
      <TargetView
        key={target}
        digest={shown.artifact.digest}
        target={target}
        cutoff={attributes.contact_cutoff ?? null}
        minSeparation={attributes.min_separation ?? 1}
        method={attributes.method ?? null}
        eitherHand={attributes.handedness !== undefined}
        structures={structuresOf(shown, outputs.structures)?.artifact ?? null}
        fold={entryOfTarget(folds, shown, target)}
        scores={scores}
      />
    </>
  );
}
