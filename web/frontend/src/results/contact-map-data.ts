/** Contact maps as numbers: reading them, ranking pairs, comparing with the truth. Residues count from 0 here. */
import type { NumericArray } from "@/api/artifacts";

export interface ContactMap {
  length: number;
  /** Symmetric, row-major, length x length, 0 to 1. */
  probability: Float32Array;
  /** Symmetric, 1 for a contact; null where no structure is known. */
  truth: Uint8Array | null;
  /** Pairs closer along the chain than this are not scored. */
  minSeparation: number;
}

/**
 * Puts a map together from arrays of the store.
 *
 * @throws Error when the arrays are not square or do not fit each other.
 */
export function toContactMap(
  probability: NumericArray,
  truth: NumericArray | null,
  minSeparation: number,
): ContactMap {
  const [rows, columns] = probability.shape;
  if (probability.shape.length !== 2 || rows === undefined || rows !== columns || rows === 0) {
    throw new Error(`a contact map is square; this one is ${probability.shape.join(" x ") || "empty"}`);
  }
  if (truth && (truth.shape[0] !== rows || truth.shape[1] !== rows)) {
    throw new Error(`the true contacts are ${truth.shape.join(" x ")}, the prediction is ${rows} x ${rows}`);
  }
  return {
    length: rows,
    probability: Float32Array.from(probability.data),
    truth: truth ? Uint8Array.from(truth.data) : null,
    minSeparation,
  };
}

export interface Pair {
  i: number;
  j: number;
  probability: number;
  /** Null where no structure is known. */
  isContact: boolean | null;
}

/** One cell of a map, whichever way round it is given. */
export function pairAt(map: ContactMap, first: number, second: number): Pair {
  const i = Math.min(first, second);
  const j = Math.max(first, second);
  const index = i * map.length + j;
  return {
    i,
    j,
    probability: map.probability[index] ?? 0,
    isContact: map.truth ? map.truth[index] === 1 : null,
  };
}

const BINS = 1024;

/** The `count` most probable pairs far enough apart, the most probable first; ties in order of residues. */
export function topContacts(map: ContactMap, count: number): Pair[] {
  const { length, probability, minSeparation } = map;
  const histogram = new Uint32Array(BINS);
  const binOf = (value: number) => Math.min(BINS - 1, Math.max(0, Math.floor(value * BINS)));
  forEachPair(length, minSeparation, (index) => {
    const bin = binOf(probability[index] as number);
    histogram[bin] = (histogram[bin] as number) + 1;
  });
  let lowest = BINS - 1;
  for (let found = histogram[lowest] as number; found < count && lowest > 0;) {
    lowest -= 1;
    found += histogram[lowest] as number;
  }
  const candidates: number[] = [];
  forEachPair(length, minSeparation, (index) => {
    if (binOf(probability[index] as number) >= lowest) candidates.push(index);
  });
  candidates.sort(
    (left, right) => (probability[right] as number) - (probability[left] as number) || left - right,
  );
  return candidates.slice(0, count).map((index) => pairAt(map, Math.floor(index / length), index % length));
}

function forEachPair(length: number, minSeparation: number, visit: (index: number) => void): void {
  for (let i = 0; i < length; i += 1) {
    for (let j = i + Math.max(1, minSeparation); j < length; j += 1) visit(i * length + j);
  }
}

export interface Agreement {
  /** Pairs predicted at or above the threshold. */
  predicted: number;
  /** Pairs truly in contact; null where no structure is known. */
  actual: number | null;
  /** Predicted pairs that are truly in contact. */
  right: number | null;
}

/** How many contacts a threshold predicts, and how many of them are true. */
export function agreementAt(map: ContactMap, threshold: number): Agreement {
  let predicted = 0;
  let actual = 0;
  let right = 0;
  forEachPair(map.length, map.minSeparation, (index) => {
    const isPredicted = (map.probability[index] as number) >= threshold;
    const isContact = map.truth !== null && map.truth[index] === 1;
    if (isPredicted) predicted += 1;
    if (isContact) actual += 1;
    if (isPredicted && isContact) right += 1;
  });
  return { predicted, actual: map.truth ? actual : null, right: map.truth ? right : null };
}

/** A part of a map: rows and columns from, up to and without. */
export interface Window {
  top: number;
  bottom: number;
  left: number;
  right: number;
}

export function wholeMap(length: number): Window {
  return { top: 0, bottom: length, left: 0, right: length };
}

/** Inclusive range of residues. */
export interface Range {
  from: number;
  to: number;
}

/** Two ranges of residues whose contacts are looked at; equal for a range along the chain. */
export interface Selection {
  rows: Range;
  columns: Range;
}

/** `12-40` or `12-20,55-70`, residues counted from 1, as it stands in the address. */
export function formatSelection({ rows, columns }: Selection): string {
  const text = ({ from, to }: Range) => (from === to ? `${from + 1}` : `${from + 1}-${to + 1}`);
  const [first, second] = [text(rows), text(columns)];
  return first === second ? first : `${first},${second}`;
}

/** Reads {@link formatSelection}'s text; null where it is none or lies outside the chain. */
export function parseSelection(text: string | undefined, length: number): Selection | null {
  const parts = (text ?? "").split(",").map((part) => {
    const match = /^(\d+)(?:-(\d+))?$/.exec(part.trim());
    if (!match) return null;
    const from = Number(match[1]) - 1;
    const to = Number(match[2] ?? match[1]) - 1;
    return from >= 0 && from <= to && to < length ? { from, to } : null;
  });
  const [rows, columns] = parts;
  if (!rows || parts.length > 2 || columns === null) return null;
  return { rows, columns: columns ?? rows };
}
