import { useQuery } from "@tanstack/react-query";

import { contentUrl } from "@/api/artifacts";
import { runArtifactsQuery } from "@/api/queries";
import { isFinished, type Run, type RunArtifact } from "@/api/types";
import { CopyButton } from "@/ui/copy";
import { formatBytes, shortDigest } from "@/ui/format";
import { DownloadIcon } from "@/ui/icons";
import { LoadingLines } from "@/ui/loading";
import { Panel } from "@/ui/page";
import { ProblemAlert } from "@/ui/problem-alert";
import table from "@/ui/table.module.css";
import classes from "./run.module.css";

/** Everything a run made, its outputs first, each to be downloaded. */
export function ArtifactsTab({ run }: { run: Run }) {
  const artifacts = useQuery(runArtifactsQuery(run.id));
  if (artifacts.isPending) return <LoadingLines what="the artifacts" />;
  if (artifacts.isError) {
    return (
      <ProblemAlert
        title="The artifacts could not be loaded"
        error={artifacts.error}
        onRetry={() => void artifacts.refetch()}
      />
    );
  }
  const outputs = artifacts.data.items.filter((item) => item.run_output);
  const others = artifacts.data.items.filter((item) => !item.run_output);
  if (artifacts.data.items.length === 0) {
    return (
      <p className="muted" data-state="empty">
        {isFinished(run.state)
          ? "This run made no files."
          : "Nothing yet. Files appear here as the steps that make them finish."}
      </p>
    );
  }
  return (
    <div className={classes.stack}>
      {outputs.length > 0 && (
        <Panel title="Outputs of the run" flush>
          <ArtifactTable items={outputs} withStep={false} />
        </Panel>
      )}
      {others.length > 0 && (
        <Panel title="Made by the steps" flush>
          <ArtifactTable items={others} withStep />
        </Panel>
      )}
    </div>
  );
}

function ArtifactTable({ items, withStep }: { items: RunArtifact[]; withStep: boolean }) {
  return (
    <table className={table.table}>
      <thead>
        <tr>
          {withStep && <th scope="col">Step</th>}
          <th scope="col">Output</th>
          <th scope="col">File</th>
          <th scope="col" className={table.wide}>
            Type
          </th>
          <th scope="col" className={table.number}>
            Size
          </th>
          <th scope="col" className={table.wide}>
            Digest
          </th>
        </tr>
      </thead>
      <tbody>
        {items.map(({ step, output, artifact }, index) => (
          <tr key={index} data-artifact={artifact.digest}>
            {withStep && <td className="mono">{step}</td>}
            <td className="mono">{output}</td>
            <td>
              <a className={classes.download} href={contentUrl(artifact.digest)} download={artifact.name}>
                <DownloadIcon /> {artifact.name}
              </a>
            </td>
            <td className={table.wide}>{artifact.type}</td>
            <td className={table.number}>{formatBytes(artifact.size)}</td>
            <td className={table.wide}>
              <span className={classes.id}>
                <code title={artifact.digest}>{shortDigest(artifact.digest)}</code>
                <CopyButton value={artifact.digest} what={`digest of ${artifact.name}`} />
              </span>
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
