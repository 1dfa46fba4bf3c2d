import { CommandLine } from "@/ui/copy";
import { LinkButton } from "@/ui/link-button";
import { Empty } from "@/ui/notice";

/** Shown before the first run: the two ways to start one. */
export function NoRuns() {
  return (
    <Empty title="No runs yet">
      <p className="muted">
        A run is one experiment: a workflow with its inputs. Start one here, from the catalog or your own
        YAML:
      </p>
      <LinkButton to="/new">New run</LinkButton>
      <p className="muted" style={{ marginTop: 16 }}>
        or in a terminal, in the folder that foldase runs in:
      </p>
      <CommandLine command="foldase run contacts" what="command that starts the main catalog workflow" />
    </Empty>
  );
}

/** Shown when a filter or a search leaves nothing. */
export function NoMatch() {
  return (
    <Empty title="No run matches">
      <p className="muted">Nothing has this state and this text in its name or id.</p>
      <LinkButton to="/runs" search={{}} variant="default">
        Show all runs
      </LinkButton>
    </Empty>
  );
}
