import { Link } from "@tanstack/react-router";

import { Panel } from "@/ui/page";
import { ArtifactLink } from "@/ui/value-view";
import type { ResultOutputs } from "./outputs";
import classes from "./results.module.css";

/** What the page was drawn from, to be taken away. Folders of arrays come as zip files. */
export function Downloads({ outputs, run }: { outputs: ResultOutputs; run: string }) {
  const all = [
    ...outputs.reports,
    ...outputs.tables,
    ...outputs.structures,
    ...outputs.predictions,
    ...outputs.trees,
  ];
  return (
    <Panel title="Downloads">
      <ul className={classes.downloads}>
        {all.map(({ label, artifact }) => (
          <li key={artifact.digest}>
            <span className="mono">{label}</span>
            <ArtifactLink artifact={artifact} />
          </li>
        ))}
      </ul>
      <p className={classes.note}>
        {all.length > 0 ? "Everything else that" : "What"} the run made is under{" "}
        <Link to="/runs/$id" params={{ id: run }} search={{ tab: "artifacts" }}>
          artifacts
        </Link>
        .
      </p>
    </Panel>
  );
}
