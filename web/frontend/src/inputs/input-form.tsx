import type { Port } from "@/api/types";
import { ArtifactField } from "./artifact-field";
import { FileField } from "./file-field";
import classes from "./inputs.module.css";
import { BoolField, ChoiceField, TextField } from "./scalar-fields";
import { isFileType, isTreeType, itemType, type RawValue, type RawValues } from "./types";
import { WeightsField } from "./weights-field";

export interface FieldProps {
  port: Port;
  value: RawValue;
  error: string | undefined;
  onChange: (value: RawValue) => void;
}

interface InputFormProps {
  ports: readonly Port[];
  values: RawValues;
  errors: Record<string, string>;
  onChange: (name: string, value: RawValue) => void;
}

/** The form of a workflow, drawn from its inputs. Required ones come first, as people need them first. */
export function InputForm({ ports, values, errors, onChange }: InputFormProps) {
  if (ports.length === 0) return <p className="muted">This workflow needs no inputs.</p>;
  const ordered = [...ports].sort((left, right) => Number(right.required) - Number(left.required));
  return (
    <div className={classes.form}>
      {ordered.map((port) => (
        <div key={port.name} className={needsRoom(port) ? classes.wide : undefined}>
          <Field
            port={port}
            value={values[port.name] ?? null}
            error={errors[port.name]}
            onChange={(value) => onChange(port.name, value)}
          />
        </div>
      ))}
    </div>
  );
}

/** Files and lists get a whole row, single values share one. */
function needsRoom(port: Port): boolean {
  const single = itemType(port.type) ?? port.type;
  return isFileType(single) || isTreeType(single) || itemType(port.type) !== null || port.type === "json";
}

function Field(props: FieldProps) {
  const { port } = props;
  const single = itemType(port.type) ?? port.type;
  if (isFileType(single)) return <FileField {...props} />;
  if (port.type === "weights") return <WeightsField {...props} />;
  if (isTreeType(single)) return <ArtifactField {...props} />;
  if (port.choices?.length) return <ChoiceField {...props} />;
  if (port.type === "bool") return <BoolField {...props} />;
  return <TextField {...props} />;
}
