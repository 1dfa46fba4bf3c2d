import type { Plan, PlannedStep } from "@/api/types";
import { formatBytes, formatRange } from "@/ui/format";
import { Notice } from "@/ui/notice";
import { FaultText } from "@/ui/problem-alert";
import { StateLabel } from "@/ui/state";
import { ScrollBox } from "@/ui/scroll-box";
import { trainingRefusal, trainingWords } from "@/ui/training-plan";
import table from "@/ui/table.module.css";
import classes from "./new-run.module.css";

/** Estimated time and memory, expected cache hits, and the steps in their order. */
export function PlanSummary({ plan, stale }: { plan: Plan; stale: boolean }) {
  const [low, high] = plan.seconds;
  const otherwise = plan.cached === plan.steps.length ? "none" : "unknown";
  return (
    <div data-state={stale ? "updating" : "planned"} className={stale ? classes.stale : undefined}>
      <dl className={classes.figures}>
        <Figure
          name="Time"
          value={low !== undefined && high !== undefined && high > 0 ? formatRange(low, high) : otherwise}
        />
        <Figure
          name="Peak memory"
          value={plan.memory_bytes > 0 ? formatBytes(plan.memory_bytes) : otherwise}
        />
        <Figure
          name="Already computed"
          value={`${plan.cached} of ${plan.steps.length} ${plan.steps.length === 1 ? "step" : "steps"}`}
        />
      </dl>
      {plan.warnings.map((warning) => (
        <Notice key={warning} kind="warning">
          {warning}
        </Notice>
      ))}
      <ScrollBox>
        <table className={`${table.table} ${classes.plan}`}>
          <thead>
            <tr>
              <th scope="col">Step</th>
              <th scope="col" className={table.number}>
                Time
              </th>
              <th scope="col">Cache</th>
            </tr>
          </thead>
          <tbody>
            {plan.steps.map((step) => (
              <PlanRow key={step.name} step={step} />
            ))}
          </tbody>
        </table>
      </ScrollBox>
    </div>
  );
}

function Figure({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

function PlanRow({ step }: { step: PlannedStep }) {
  const [low, high] = step.estimate?.seconds ?? [];
  const words = trainingWords(step.estimate?.plan);
  const refusal = trainingRefusal(step.estimate?.plan);
  const more = words.length > 0 || refusal !== "" || step.refusal != null;
  return (
    <>
      <tr title={step.estimate?.basis || undefined} className={more ? classes.continued : undefined}>
        <td>
          <span className="mono">{step.name}</span>
          {step.each && (
            <span className="muted"> {step.items === null ? "per item" : `${step.items} times`}</span>
          )}
          <br />
          <span className="muted">{step.uses}</span>
          {(step.resources.ranks ?? 1) > 1 && words.length === 0 && (
            <span className={`muted ${classes.ranks}`}> on {step.resources.ranks} ranks</span>
          )}
          {!step.fits && refusal === "" && (
            <span className={classes.tooLarge}>needs more memory than any node has</span>
          )}
        </td>
        <td className={table.number}>
          {low !== undefined && high !== undefined
            ? formatRange(low, high)
            : !step.refusal && <span className="muted">unknown</span>}
        </td>
        <td>
          <Expectation step={step} />
        </td>
      </tr>
      {more && (
        <tr>
          <td colSpan={3}>
            {words.length > 0 && <span className={`muted ${classes.training}`}>{words.join(" · ")}</span>}
            {refusal !== "" && <span className={classes.tooLarge}>{refusal}</span>}
            {step.refusal && (
              <div className={classes.refused} data-refused={step.name}>
                <FaultText fault={step.refusal} />
              </div>
            )}
          </td>
        </tr>
      )}
    </>
  );
}

/** What is expected of a step: a stored result, a computation, or nothing at all. */
function Expectation({ step }: { step: PlannedStep }) {
  if (step.runs === false) return <StateLabel state="skipped" />;
  if (step.refusal) return <StateLabel state="failed" word="would fail" />;
  if (step.cached === true) return <StateLabel state="cached" />;
  return step.cached === false ? "will run" : <span className="muted">known later</span>;
}
