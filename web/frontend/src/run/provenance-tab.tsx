import { Button } from "@mantine/core";
import { Link } from "@tanstack/react-router";

import type { Run } from "@/api/types";
import { CopyButton } from "@/ui/copy";
import { downloadText } from "@/ui/download";
import { DownloadIcon } from "@/ui/icons";
import { KeyValues } from "@/ui/key-values";
import { Panel } from "@/ui/page";
import { ValueView } from "@/ui/value-view";
import classes from "./run.module.css";

/** What a run was made of, enough to make it again. */
export function ProvenanceTab({ run }: { run: Run }) {
  const inputs = Object.entries(run.inputs);
  const outputs = Object.entries(run.outputs ?? {});
  return (
    <div className={classes.stack}>
      <Panel
        title="Run"
        actions={
          <Button
            size="compact-sm"
            variant="default"
            leftSection={<DownloadIcon />}
            onClick={() => downloadText(`${run.id}.json`, [JSON.stringify(run, null, 2)], "application/json")}
          >
            Record as JSON
          </Button>
        }
      >
        <KeyValues
          rows={[
            ["Id", <code key="id">{run.id}</code>],
            ["Workflow", run.workflow.name],
            ["Digest", <Digest key="digest" digest={run.workflow.digest} />],
            ["Created", <Instant key="created" time={run.created_at} />],
            ["Started", <Instant key="started" time={run.started_at} />],
            ["Finished", <Instant key="finished" time={run.finished_at} />],
            ["Priority", String(run.priority)],
            [
              "Resumed from",
              run.resumed_from ? (
                <Link to="/runs/$id" params={{ id: run.resumed_from }}>
                  {run.resumed_from}
                </Link>
              ) : (
                "no earlier run"
              ),
            ],
          ]}
        />
      </Panel>
      <Panel title="Inputs">
        {inputs.length === 0 ? (
          <p className="muted">This workflow has no inputs.</p>
        ) : (
          <KeyValues rows={inputs.map(([name, value]) => [name, <ValueView key={name} value={value} />])} />
        )}
      </Panel>
      <Panel title="Outputs">
        {outputs.length === 0 ? (
          <p className="muted">None yet.</p>
        ) : (
          <KeyValues rows={outputs.map(([name, value]) => [name, <ValueView key={name} value={value} />])} />
        )}
      </Panel>
      <Panel
        title="Source"
        actions={
          <span className={classes.id}>
            <CopyButton value={run.source} what="source" />
            <Button
              size="compact-sm"
              variant="default"
              leftSection={<DownloadIcon />}
              onClick={() => downloadText(`${run.workflow.name}.yaml`, [run.source], "application/yaml")}
            >
              Download
            </Button>
          </span>
        }
      >
        <pre className={classes.source} tabIndex={0} aria-label="Source of the workflow">
          {run.source}
        </pre>
      </Panel>
    </div>
  );
}

function Digest({ digest }: { digest: string }) {
  return (
    <>
      <code>{digest}</code> <CopyButton value={digest} what="digest" />
    </>
  );
}

function Instant({ time }: { time: string | null }) {
  if (!time) return <span className="muted">not yet</span>;
  return (
    <time dateTime={time} title={`${time} UTC`}>
      {new Date(time).toLocaleString("en-GB")}
    </time>
  );
}
