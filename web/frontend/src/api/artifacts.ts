/** Addresses and contents of stored artifacts. Their bytes never change, so everything is cached for good. */
import { queryOptions } from "@tanstack/react-query";

import { fetchRaw } from "./client";
import type { GroupInfo } from "./types";

const ROOT = "/api/v1/artifacts";

function encodePath(path: string): string {
  return path.split("/").map(encodeURIComponent).join("/");
}

/** Where the whole artifact is downloaded; a tree arrives as a zip file. */
export function contentUrl(digest: string): string {
  return `${ROOT}/${encodeURIComponent(digest)}/content`;
}

/** Where one file of a tree is downloaded. */
export function fileUrl(digest: string, path: string): string {
  return `${ROOT}/${encodeURIComponent(digest)}/files/${encodePath(path)}`;
}

/** A numeric array in C order. */
export interface NumericArray {
  shape: number[];
  data: Float32Array | Uint8Array;
}

const READERS: Record<string, (bytes: ArrayBuffer) => Float32Array | Uint8Array> = {
  float32: (bytes) => new Float32Array(bytes),
  float64: (bytes) => Float32Array.from(new Float64Array(bytes)),
  uint8: (bytes) => new Uint8Array(bytes),
  bool: (bytes) => new Uint8Array(bytes),
};

const ALIASES: Record<string, string> = { "<f4": "float32", "<f8": "float64", "|u1": "uint8", "|b1": "bool" };

/**
 * Interprets little-endian bytes by the headers of an array answer.
 *
 * @throws Error when the type is none that the page draws, or the bytes do not fill the shape.
 */
export function decodeArray(bytes: ArrayBuffer, dtype: string, shape: string): NumericArray {
  const reader = READERS[ALIASES[dtype] ?? dtype];
  if (!reader) throw new Error(`arrays of type ${dtype} cannot be shown`);
  const dimensions = (shape.match(/\d+/g) ?? []).map(Number);
  const data = reader(bytes);
  const expected = dimensions.reduce((product, size) => product * size, 1);
  if (data.length !== expected) {
    throw new Error(`the array should hold ${expected} numbers and holds ${data.length}`);
  }
  return { shape: dimensions, data };
}

export function arrayQuery(digest: string, path: string) {
  return partQuery(digest, path, "");
}

/** A part of an array: the first index of every axis, and the one after the last. */
export function arrayPartQuery(
  digest: string,
  path: string,
  start: readonly number[],
  stop: readonly number[],
) {
  return partQuery(digest, path, `?start=${start.join(",")}&stop=${stop.join(",")}`);
}

function partQuery(digest: string, path: string, part: string) {
  return queryOptions({
    queryKey: ["array", digest, path, part],
    queryFn: async ({ signal }) => {
      const answer = await fetchRaw(
        `${ROOT}/${encodeURIComponent(digest)}/arrays/${encodePath(path)}${part}`,
        signal,
      );
      const dtype = answer.headers.get("X-Dtype") ?? "";
      return decodeArray(await answer.arrayBuffer(), dtype, answer.headers.get("X-Shape") ?? "");
    },
    staleTime: Infinity,
    gcTime: 60_000,
    structuralSharing: false,
  });
}

export function groupQuery(digest: string, path: string) {
  return queryOptions({
    queryKey: ["group", digest, path],
    queryFn: async ({ signal }) => {
      const answer = await fetchRaw(
        `${ROOT}/${encodeURIComponent(digest)}/attributes${path ? `/${encodePath(path)}` : ""}`,
        signal,
      );
      return (await answer.json()) as GroupInfo;
    },
    staleTime: Infinity,
  });
}

/** A small artifact that is one JSON document. */
export function jsonQuery(digest: string) {
  return queryOptions({
    queryKey: ["json", digest],
    queryFn: async ({ signal }) => (await (await fetchRaw(contentUrl(digest), signal)).json()) as unknown,
    staleTime: Infinity,
  });
}
