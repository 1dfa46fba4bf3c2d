import { type ReactNode, useState } from "react";

import type { Port } from "@/api/types";
import { InputForm } from "@/inputs/input-form";
import { Panel } from "@/ui/page";
import type { InputDraft, Subject } from "./draft";
import { touchedErrors } from "./draft";
import classes from "./new-run.module.css";
import { PlanPanel } from "./plan-panel";

interface PreparedRunProps {
  subject: Subject;
  /** Null while the document has errors, so that its inputs are not known. */
  ports: readonly Port[] | null;
  draft: InputDraft;
  /** Whether the document itself is in order. */
  ready: boolean;
  /** Stands above the form, for example the editor. */
  before?: ReactNode;
  /** Stands below the form. */
  extra?: ReactNode;
}

/** The form of a workflow on the left, its plan and the submit button on the right. */
export function PreparedRun({ subject, ports, draft, ready, before, extra }: PreparedRunProps) {
  const [touched, setTouched] = useState<ReadonlySet<string>>(new Set());
  const [tried, setTried] = useState(false);
  const [serverErrors, setServerErrors] = useState<Record<string, string>>({});
  const shown = { ...serverErrors, ...touchedErrors(draft.errors, touched, tried) };

  return (
    <div className={classes.columns}>
      <div className={classes.left}>
        {before}
        <Panel title="Inputs">
          {ports === null ? (
            <p className="muted">The inputs appear when the document has no errors.</p>
          ) : (
            <InputForm
              ports={ports}
              values={draft.values}
              errors={shown}
              onChange={(name, value) => {
                setTouched((all) => new Set(all).add(name));
                draft.set(name, value);
              }}
            />
          )}
        </Panel>
        {extra}
      </div>
      <PlanPanel
        subject={subject}
        inputs={draft.inputs}
        errors={draft.errors}
        ready={ready}
        onTried={() => setTried(true)}
        onFieldErrors={setServerErrors}
      />
    </div>
  );
}
