import { Button, Input, Textarea } from "@mantine/core";
import { type ClipboardEvent, type DragEvent, useId, useRef, useState } from "react";

import type { Artifact } from "@/api/types";
import { formatBytes, shortDigest } from "@/ui/format";
import { ProblemAlert } from "@/ui/problem-alert";
import { ProgressBar } from "@/ui/progress-bar";
import type { FieldProps } from "./input-form";
import classes from "./inputs.module.css";
import { labelOf } from "./scalar-fields";
import { itemType } from "./types";
import { useUploads } from "./use-uploads";

/** A file, or several, by picker, drop or paste. Uploaded at once, with a first look at what they hold. */
export function FileField({ port, value, error, onChange }: FieldProps) {
  const many = itemType(port.type) !== null;
  const type = itemType(port.type) ?? port.type;
  const artifacts = toList(value);
  const id = useId();
  const picker = useRef<HTMLInputElement>(null);
  const [over, setOver] = useState(false);
  const [pasting, setPasting] = useState(false);
  const uploads = useUploads(type, (artifact) => onChange(many ? [...artifacts, artifact] : artifact));

  const take = (files: FileList | File[]) => {
    const chosen = many ? [...files] : [...files].slice(0, 1);
    for (const file of chosen) uploads.start(file);
  };
  const takeText = (text: string) => take([new File([text], pastedName(type), { type: "text/plain" })]);
  const onPaste = (event: ClipboardEvent) => {
    if (event.target instanceof HTMLTextAreaElement) return;
    if (event.clipboardData.files.length > 0) take(event.clipboardData.files);
    else takeText(event.clipboardData.getData("text"));
    event.preventDefault();
  };
  const onDrop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    if (event.dataTransfer.files.length > 0) take(event.dataTransfer.files);
    else if (event.dataTransfer.getData("text")) takeText(event.dataTransfer.getData("text"));
  };
  const describedBy = [`${id}-help`, error ? `${id}-error` : ""].join(" ").trim();

  return (
    <Input.Wrapper
      label={labelOf({ port })}
      labelElement="div"
      labelProps={{ id: `${id}-label` }}
      description={[port.help, port.type].filter(Boolean).join(" · ")}
      descriptionProps={{ id: `${id}-help` }}
      error={error}
      errorProps={{ id: `${id}-error` }}
      withAsterisk={port.required}
    >
      <div
        className={classes.drop}
        data-over={over}
        data-field={port.name}
        role="group"
        aria-labelledby={`${id}-label`}
        aria-describedby={describedBy}
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={onDrop}
        onPaste={onPaste}
      >
        <UploadedList
          artifacts={artifacts}
          reports={uploads.reports}
          onRemove={(index) => onChange(many ? artifacts.filter((_, place) => place !== index) : null)}
        />
        {uploads.running.map((one) => (
          <div key={one.id} className={classes.uploading} data-state="uploading">
            <span>{one.name}</span>
            <ProgressBar value={one.fraction} label={`Upload of ${one.name}`} />
            <Button size="compact-xs" variant="default" onClick={one.abort}>
              Stop
            </Button>
          </div>
        ))}
        {uploads.error !== null && <ProblemAlert title="The file was not taken" error={uploads.error} />}
        <div className={classes.ways}>
          <input
            ref={picker}
            type="file"
            hidden
            multiple={many}
            aria-hidden="true"
            data-picker={port.name}
            onChange={(event) => {
              if (event.currentTarget.files) take(event.currentTarget.files);
              event.currentTarget.value = "";
            }}
          />
          <Button
            size="xs"
            variant="default"
            onClick={() => picker.current?.click()}
            aria-describedby={describedBy}
          >
            {artifacts.length === 0 ? "Choose a file" : many ? "Add another file" : "Choose another file"}
          </Button>
          <Button size="xs" variant="default" onClick={() => setPasting(!pasting)} aria-expanded={pasting}>
            Paste text
          </Button>
          <span className="muted">or drop it here</span>
        </div>
        {pasting && (
          <PasteBox
            name={port.name}
            onUse={(text) => {
              setPasting(false);
              takeText(text);
            }}
          />
        )}
      </div>
    </Input.Wrapper>
  );
}

interface UploadedListProps {
  artifacts: Artifact[];
  reports: ReadonlyMap<string, { summary: string; warnings: string[] }>;
  onRemove: (index: number) => void;
}

function UploadedList({ artifacts, reports, onRemove }: UploadedListProps) {
  return artifacts.map((artifact, index) => {
    const report = reports.get(artifact.digest);
    return (
      <div key={`${artifact.digest}-${index}`} className={classes.uploaded} data-state="uploaded">
        <div>
          <strong>{artifact.name}</strong>{" "}
          <span className="muted">
            {formatBytes(artifact.size)} · <span className="mono">{shortDigest(artifact.digest)}</span>
          </span>
          {report && <p className={classes.report}>{report.summary}</p>}
          {report?.warnings.map((warning) => (
            <p key={warning} className={classes.warning}>
              {warning}
            </p>
          ))}
        </div>
        <Button
          size="compact-xs"
          variant="default"
          onClick={() => onRemove(index)}
          aria-label={`Remove ${artifact.name}`}
        >
          Remove
        </Button>
      </div>
    );
  });
}

function PasteBox({ name, onUse }: { name: string; onUse: (text: string) => void }) {
  const [text, setText] = useState("");
  return (
    <div className={classes.paste}>
      <Textarea
        aria-label={`Text for ${name}`}
        rows={5}
        autoFocus
        spellCheck={false}
        classNames={{ input: "mono" }}
        value={text}
        onChange={(event) => setText(event.currentTarget.value)}
      />
      <Button size="xs" disabled={text.trim() === ""} onClick={() => onUse(text)}>
        Use this text
      </Button>
    </div>
  );
}

function toList(value: FieldProps["value"]): Artifact[] {
  if (Array.isArray(value)) return value;
  return value !== null && typeof value === "object" ? [value] : [];
}

function pastedName(type: string): string {
  return type === "fasta" || type === "alignment" ? "pasted.fasta" : "pasted.txt";
}
