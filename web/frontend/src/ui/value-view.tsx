import { contentUrl } from "@/api/artifacts";
import { type Artifact, isArtifactValue } from "@/api/types";
import { CopyButton } from "./copy";
import { formatBytes, formatValue, shortDigest } from "./format";
import classes from "./value-view.module.css";

/** An artifact as a download link, with its size and digest; public weights stay where they are. */
export function ArtifactLink({ artifact }: { artifact: Artifact }) {
  return (
    <span className={classes.artifact}>
      {artifact.type === "weights" ? (
        <span>{artifact.name}</span>
      ) : (
        <a href={contentUrl(artifact.digest)} download={artifact.name}>
          {artifact.name}
        </a>
      )}
      <span className="muted">
        {artifact.type}, {formatBytes(artifact.size)}
      </span>
      <span className={classes.digest}>
        <code title={artifact.digest}>{shortDigest(artifact.digest)}</code>
        <CopyButton value={artifact.digest} what={`digest of ${artifact.name}`} />
      </span>
    </span>
  );
}

/** Any value of the language: a scalar as text, artifacts as downloads, the rest as JSON. */
export function ValueView({ value }: { value: unknown }) {
  if (isArtifactValue(value)) return <ArtifactLink artifact={value.$artifact} />;
  if (Array.isArray(value) && value.some(isArtifactValue)) {
    return (
      <ul className={classes.list}>
        {value.map((one, index) => (
          <li key={index}>
            <ValueView value={one} />
          </li>
        ))}
      </ul>
    );
  }
  if (value === null || value === undefined) return <span className="muted">not set</span>;
  if (typeof value === "object") {
    return (
      <pre className={classes.json} tabIndex={0}>
        {JSON.stringify(value, null, 2)}
      </pre>
    );
  }
  return <span className="mono">{formatValue(value)}</span>;
}
