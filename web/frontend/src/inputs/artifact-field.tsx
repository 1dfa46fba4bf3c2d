import { Textarea } from "@mantine/core";
import { useQueries } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";

import { asProblem } from "@/api/problem";
import { artifactQuery } from "@/api/queries";
import type { Artifact } from "@/api/types";
import { formatBytes } from "@/ui/format";
import type { FieldProps } from "./input-form";
import { labelOf } from "./scalar-fields";
import { itemType } from "./types";

const DIGEST = /^(sha256:)?[0-9a-f]{64}$/;

/** Folders of files that earlier runs made, named by their digests: such things are not uploaded. */
export function ArtifactField({ port, value, error, onChange }: FieldProps) {
  const many = itemType(port.type) !== null;
  const [text, setText] = useState(() => digestsOf(value).join("\n"));
  const digests = text.split(/[\s,]+/).filter(Boolean);
  const found = useQueries({
    queries: digests.map((digest) => ({ ...artifactQuery(digest), enabled: DIGEST.test(digest) })),
  });
  const artifacts = found.flatMap((one) => (one.data ? [reference(one.data)] : []));
  const complete = artifacts.length === digests.length && (many || digests.length <= 1);
  const chosen = complete ? JSON.stringify(artifacts) : "[]";
  const report = useRef(onChange);
  report.current = onChange;

  useEffect(() => {
    const list = JSON.parse(chosen) as Artifact[];
    report.current(many ? list : (list[0] ?? null));
  }, [chosen, many]);

  const failed = found.find((one) => one.isError);
  const malformed = digests.find((digest) => !DIGEST.test(digest));
  const ask = many
    ? "copy their digests from the artifacts of runs, one per line"
    : "copy its digest from the artifacts of a run";
  const known = artifacts.map((one) => `${one.name}, ${one.type}, ${formatBytes(one.size)}`).join("; ");
  const problem = failed
    ? asProblem(failed.error).message
    : malformed
      ? `"${malformed}" is no digest: a digest is 64 hexadecimal digits.`
      : digests.length > 1 && !many
        ? "Only one is wanted here."
        : error;
  return (
    <Textarea
      label={labelOf({ port })}
      description={known || [port.help, `${port.type}: ${ask}`].filter(Boolean).join(" · ")}
      error={problem}
      withAsterisk={port.required}
      name={port.name}
      placeholder="sha256:…"
      rows={many ? 3 : 1}
      value={text}
      onChange={(event) => setText(event.currentTarget.value)}
      spellCheck={false}
      classNames={{ input: "mono" }}
    />
  );
}

function digestsOf(value: FieldProps["value"]): string[] {
  if (Array.isArray(value)) return value.map((one) => one.digest);
  return value !== null && typeof value === "object" ? [value.digest] : [];
}

function reference({ digest, type, size, name, media_type }: Artifact): Artifact {
  return { digest, type, size, name, media_type };
}
