import { CSRF_HEADERS } from "./client";
import { Problem, problemFrom, unreachable } from "./problem";
import type { Artifact } from "./types";

export interface Upload {
  /** Resolves to the stored artifact, rejects with a {@link Problem}. */
  done: Promise<Artifact>;
  abort(): void;
}

/**
 * Streams a file into the store.
 *
 * XMLHttpRequest and not fetch: only it reports how many bytes have left the machine.
 */
export function upload(file: File, type: string, onProgress: (fraction: number) => void): Upload {
  const request = new XMLHttpRequest();
  const done = new Promise<Artifact>((resolve, reject) => {
    const query = new URLSearchParams({ name: file.name, type });
    request.open("POST", `/api/v1/blobs?${query}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    for (const [name, value] of Object.entries(CSRF_HEADERS)) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    };
    request.onload = () => {
      if (request.status === 201 || request.status === 200) resolve(request.response as Artifact);
      else reject(problemFrom(request.status, request.response));
    };
    request.onerror = () => reject(unreachable(null));
    request.onabort = () => reject(new Problem(0, "aborted", "The upload was stopped."));
    request.send(file);
  });
  return { done, abort: () => request.abort() };
}
