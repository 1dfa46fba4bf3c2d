import { Switch } from "@mantine/core";
import { lazy, Suspense, useMemo, useState } from "react";

import { formatMetric } from "@/ui/format";
import { LoadingLines } from "@/ui/loading";
import { ProblemAlert } from "@/ui/problem-alert";
import { toCurves } from "./curves-data";
import classes from "./curves.module.css";
import { useMetrics } from "./use-metrics";

const LineChart = lazy(async () => ({ default: (await import("./line-chart")).LineChart }));

interface CurvesProps {
  run: string;
  step: string;
  attempt: number;
  running: boolean;
  grownTo: number;
}

/** The numbers a step reports, live, one small chart each. */
export function Curves({ run, step, attempt, running, grownTo }: CurvesProps) {
  const { items: points, loading, error } = useMetrics(run, step, attempt, grownTo);
  const [log, setLog] = useState(false);
  const curves = useMemo(() => toCurves(points), [points]);

  if (error !== null) return <ProblemAlert title="The curves could not be read" error={error} />;
  if (loading && attempt > 0) return <LoadingLines lines={3} what="the curves" />;
  if (curves.length === 0) {
    return (
      <p className="muted" data-state="empty">
        {running ? "This step has reported no numbers yet." : "This step reported no numbers."}
      </p>
    );
  }
  return (
    <div data-curves={curves.length} data-points={points.length}>
      <Switch
        size="xs"
        mb="sm"
        label="Logarithmic scale"
        checked={log}
        onChange={(event) => setLog(event.currentTarget.checked)}
      />
      <div className={classes.grid}>
        {curves.map((curve) => (
          <figure key={curve.name} className={classes.figure} data-curve={curve.name}>
            <figcaption>
              <span>{curve.name}</span>
              <strong>{curve.last === null ? "" : formatMetric(curve.name, curve.last)}</strong>
            </figcaption>
            <Suspense fallback={<div className={classes.placeholder} />}>
              <LineChart curve={curve} log={log} />
            </Suspense>
          </figure>
        ))}
      </div>
    </div>
  );
}
