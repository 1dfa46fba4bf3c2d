import { NativeSelect } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";

import { asProblem } from "@/api/problem";
import { weightsQuery } from "@/api/queries";
import type { FieldProps } from "./input-form";
import { labelOf } from "./scalar-fields";
import { weightsOptions } from "./weights";

/** Public weights by their name on this platform. */
export function WeightsField({ port, value, error, onChange }: FieldProps) {
  const { data, error: failed } = useQuery(weightsQuery);
  const chosen = typeof value === "string" ? value : "";
  const note =
    data && !data.configured ? "The platform was started without a folder of weights (--weights)." : "";
  const refused = data?.items.find(({ name }) => name === chosen)?.error;
  return (
    <NativeSelect
      label={labelOf({ port })}
      description={[port.help, note].filter(Boolean).join(" · ") || undefined}
      error={error ?? refused?.message ?? (failed ? asProblem(failed).message : undefined)}
      withAsterisk={port.required}
      name={port.name}
      data={[
        { value: "", label: data ? "Choose…" : "Loading…" },
        ...weightsOptions(data?.items ?? [], chosen),
      ]}
      value={chosen}
      onChange={(event) => onChange(event.currentTarget.value)}
    />
  );
}
