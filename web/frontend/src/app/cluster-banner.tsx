import { useQuery } from "@tanstack/react-query";

import { healthQuery } from "@/api/queries";
import classes from "./shell.module.css";

const TEXTS: Record<string, { title: string; text: string }> = {
  starting: {
    title: "The cluster is starting.",
    text: "Runs can be submitted already and begin as soon as it is ready.",
  },
  lost: {
    title: "The cluster does not answer.",
    text: "Running steps continue or are started again when it is back; nothing finished is lost.",
  },
  stopped: { title: "The cluster is stopped.", text: "Runs wait until `foldase up` starts it again." },
};

/** One line under the header while the cluster, or the server itself, is not there. */
export function ClusterBanner() {
  const health = useQuery(healthQuery);
  if (health.isError) {
    return (
      <div className={`${classes.banner} ${classes.warning}`} role="status" data-banner="unreachable">
        <strong>The server cannot be reached.</strong> Trying again. What you see may be out of date.
      </div>
    );
  }
  const cluster = health.data?.cluster;
  const text = cluster && TEXTS[cluster.state];
  if (!cluster || !text) return null;
  return (
    <div
      className={`${classes.banner} ${cluster.state === "starting" ? "" : classes.warning}`}
      role="status"
      data-banner={cluster.state}
    >
      <strong>{text.title}</strong> {text.text}
      {cluster.message && <span className="muted"> ({cluster.message})</span>}
    </div>
  );
}
