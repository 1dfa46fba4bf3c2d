import { useEffect, useRef, useState } from "react";

import { Problem } from "@/api/problem";
import type { Artifact } from "@/api/types";
import { type Upload, upload } from "@/api/uploads";
import { inspectSequences, type SequenceReport } from "./sequences";

const MOST_BYTES_INSPECTED = 20 * 1024 * 1024;

export interface RunningUpload {
  id: number;
  name: string;
  fraction: number;
  abort: () => void;
}

/** Uploads of one field: those under way, the last failure, and what was seen in the files. */
export function useUploads(type: string, onDone: (artifact: Artifact) => void) {
  const [running, setRunning] = useState<RunningUpload[]>([]);
  const [reports, setReports] = useState<ReadonlyMap<string, SequenceReport>>(new Map());
  const [error, setError] = useState<Problem | null>(null);
  const counter = useRef(0);
  const finish = useRef(onDone);
  const uploads = useRef(new Set<Upload>());
  finish.current = onDone;

  useEffect(() => {
    const pending = uploads.current;
    return () => pending.forEach((one) => one.abort());
  }, []);

  const start = (file: File) => {
    const id = (counter.current += 1);
    setError(null);
    const one = upload(file, type, (fraction) =>
      setRunning((all) => all.map((entry) => (entry.id === id ? { ...entry, fraction } : entry))),
    );
    uploads.current.add(one);
    setRunning((all) => [...all, { id, name: file.name, fraction: 0, abort: one.abort }]);
    one.done
      .then(async (artifact) => {
        const report = await inspect(file, type);
        if (report) setReports((all) => new Map(all).set(artifact.digest, report));
        finish.current(artifact);
      })
      .catch((failure: unknown) => {
        if (failure instanceof Problem && failure.code !== "aborted") setError(failure);
      })
      .finally(() => {
        uploads.current.delete(one);
        setRunning((all) => all.filter((entry) => entry.id !== id));
      });
  };

  return { running, reports, error, start };
}

async function inspect(file: File, type: string): Promise<SequenceReport | null> {
  if ((type !== "fasta" && type !== "alignment") || file.size > MOST_BYTES_INSPECTED) return null;
  return inspectSequences(await file.text(), type);
}
