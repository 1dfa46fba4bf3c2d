import type { StepDetail } from "@/api/types";
import { CopyButton } from "@/ui/copy";
import { formatBytes, formatRange } from "@/ui/format";
import { KeyValues } from "@/ui/key-values";
import { ValueView } from "@/ui/value-view";
import classes from "./run.module.css";

/** What went into a step, what came out, what it asked for and under which key its result is kept. */
export function StepValues({ detail }: { detail: StepDetail }) {
  const { estimate } = detail;
  const [low, high] = estimate?.seconds ?? [];
  return (
    <>
      <h3 className={classes.subhead}>Inputs</h3>
      <Values
        values={detail.inputs}
        none="Not known yet: the inputs come from steps that have not finished."
      />
      <h3 className={classes.subhead}>Outputs</h3>
      <Values values={detail.outputs} none="None yet." />
      <h3 className={classes.subhead}>Resources</h3>
      <KeyValues
        rows={[
          ["Reserved", resourceText(detail.resources)],
          [
            "Estimate",
            estimate && low !== undefined && high !== undefined
              ? `${formatRange(low, high)}, ${formatBytes(estimate.memory_bytes)}${estimate.basis ? ` (${estimate.basis})` : ""}`
              : "none",
          ],
          [
            "Cache key",
            detail.cache_key ? (
              <>
                <code>{detail.cache_key}</code> <CopyButton value={detail.cache_key} what="cache key" />
              </>
            ) : (
              "none yet"
            ),
          ],
        ]}
      />
    </>
  );
}

function Values({ values, none }: { values: Record<string, unknown> | null; none: string }) {
  const entries = Object.entries(values ?? {});
  if (entries.length === 0) return <p className="muted">{none}</p>;
  return <KeyValues rows={entries.map(([name, value]) => [name, <ValueView key={name} value={value} />])} />;
}

function resourceText(resources: Record<string, unknown> | null): string {
  if (!resources) return "not decided yet";
  const { cpu, memory_bytes: memory, gpu, ranks } = resources;
  const parts = [`${Number(cpu ?? 0)} CPU`];
  if (Number(memory) > 0) parts.push(formatBytes(Number(memory)));
  if (Number(gpu) > 0) parts.push(`${Number(gpu)} GPU`);
  const each = parts.join(", ");
  return Number(ranks) > 1 ? `${Number(ranks)} ranks, each ${each}` : each;
}
