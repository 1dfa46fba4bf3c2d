import { NativeSelect, Switch, Textarea, TextInput } from "@mantine/core";

import { formatValue } from "@/ui/format";
import type { FieldProps } from "./input-form";
import { itemType } from "./types";
import { limitsText } from "./values";

/** Help, type and limits of an input in one line under its name. */
export function describe({ port }: Pick<FieldProps, "port">): string {
  const type = itemType(port.type) ? `${port.type}, one per line or separated by commas` : port.type;
  const limits = limitsText(port);
  return [port.help, limits ? `${type}, ${limits}` : type].filter(Boolean).join(" · ");
}

/** The label of a field: the name as the document writes it. */
export function labelOf({ port }: Pick<FieldProps, "port">) {
  return <span className="mono">{port.name}</span>;
}

export function TextField({ port, value, error, onChange }: FieldProps) {
  const shared = {
    label: labelOf({ port }),
    description: describe({ port }),
    error,
    withAsterisk: port.required,
    required: false,
    "aria-required": port.required,
    name: port.name,
    value: typeof value === "string" ? value : "",
  };
  if (itemType(port.type) || port.type === "json" || port.type === "any") {
    return (
      <Textarea
        {...shared}
        rows={3}
        onChange={(event) => onChange(event.currentTarget.value)}
        spellCheck={false}
      />
    );
  }
  const inputMode = port.type === "int" ? "numeric" : port.type === "float" ? "decimal" : "text";
  return (
    <TextInput {...shared} inputMode={inputMode} onChange={(event) => onChange(event.currentTarget.value)} />
  );
}

export function ChoiceField({ port, value, error, onChange }: FieldProps) {
  const options = (port.choices ?? []).map((choice) => ({
    value: JSON.stringify(choice),
    label: formatValue(choice),
  }));
  const unset = port.required || value === "" ? [{ value: "", label: "Choose…" }] : [];
  return (
    <NativeSelect
      label={labelOf({ port })}
      description={port.help || undefined}
      error={error}
      withAsterisk={port.required}
      name={port.name}
      data={[...unset, ...options]}
      value={typeof value === "string" ? value : ""}
      onChange={(event) => onChange(event.currentTarget.value)}
    />
  );
}

export function BoolField({ port, value, error, onChange }: FieldProps) {
  return (
    <Switch
      label={labelOf({ port })}
      description={port.help || undefined}
      error={error}
      name={port.name}
      checked={value === true}
      onChange={(event) => onChange(event.currentTarget.checked)}
    />
  );
}
