import { useEffect, useMemo, useState } from "react";

import type { Port } from "@/api/types";
import type { RawValue, RawValues } from "@/inputs/types";
import { initialValues, readInputs } from "@/inputs/values";

/** What would be submitted: a catalog workflow by name, or a document. */
export type Subject = { workflow: string } | { source: string };

export interface InputDraft {
  values: RawValues;
  inputs: Record<string, unknown>;
  errors: Record<string, string>;
  set: (name: string, value: RawValue) => void;
}

/**
 * The values of a form over some ports. Values stay while the ports stay the same in name and type, so that
 * editing the document does not empty the form. `given` are the inputs of an earlier run.
 */
export function useInputDraft(ports: readonly Port[], given?: Record<string, unknown>): InputDraft {
  const shape = JSON.stringify(ports.map((port) => [port.name, port.type, port.default, port.choices]));
  const [changes, setChanges] = useState<RawValues>({});
  const initial = useMemo(() => initialValues(ports, given), [shape, given]); // eslint-disable-line react-hooks/exhaustive-deps

  useEffect(() => setChanges({}), [given]);

  return useMemo(() => {
    const known = Object.fromEntries(Object.entries(changes).filter(([name]) => name in initial));
    const values = { ...initial, ...known };
    const set = (name: string, value: RawValue) => setChanges((all) => ({ ...all, [name]: value }));
    return { values, set, ...readInputs(ports, values) };
  }, [changes, initial, shape]); // eslint-disable-line react-hooks/exhaustive-deps
}

/** Names of fields that a person has touched: only these show their errors before a submit. */
export function touchedErrors(
  errors: Record<string, string>,
  touched: ReadonlySet<string>,
  all: boolean,
): Record<string, string> {
  return Object.fromEntries(Object.entries(errors).filter(([name]) => all || touched.has(name)));
}
