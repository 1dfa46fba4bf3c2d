/** Predicted aligned errors as bytes: which tiles of which copy to read, and what they say. Residues count from 0. */
import type { NumericArray } from "@/api/artifacts";
import type { Window } from "./contact-map-data";
import type { Pixels, Rgb } from "./contact-map-draw";

/** Copies of the map in the tree: how many rows and columns became one value, a mean. */
export const LEVELS = [
  { name: "pae", size: 1 },
  { name: "pae_lod1", size: 4 },
  { name: "pae_lod2", size: 16 },
] as const;

export type Level = (typeof LEVELS)[number];

/** At most so many values a side are read and drawn at once. */
const MOST_CELLS = 1024;
/** As the tree is stored, so that one request reads one tile. */
const TILE = 256;

export interface Scale {
  /** Å in one step of a byte. */
  step: number;
  /** The byte that stands for no value. */
  missing: number;
}

/** The finest copy that shows a window in no more than {@link MOST_CELLS} values a side. */
export function levelFor(window: Window): Level {
  const span = Math.max(window.bottom - window.top, window.right - window.left);
  return LEVELS.find(({ size }) => Math.ceil(span / size) <= MOST_CELLS) ?? LEVELS[2];
}

/** Tiles of a copy, as start and stop of both axes. */
export interface Tile {
  start: readonly [row: number, column: number];
  stop: readonly [row: number, column: number];
}

/** The tiles of a copy of a map of `length` residues that hold a window. */
export function tilesFor(window: Window, level: Level, length: number): Tile[] {
  const cells = Math.ceil(length / level.size);
  const along = (from: number, to: number) => {
    const parts: [from: number, to: number][] = [];
    const last = Math.floor((to - 1) / level.size);
    let start = Math.floor(from / level.size / TILE) * TILE;
    for (; start <= last; start += TILE) parts.push([start, Math.min(start + TILE, cells)]);
    return parts;
  };
  return along(window.top, window.bottom).flatMap(([top, bottom]) =>
    along(window.left, window.right).map(([left, right]): Tile => ({
      start: [top, left],
      stop: [bottom, right],
    })),
  );
}

/** Tiles put together: a part of one copy. */
export interface PaePart {
  size: Level["size"];
  scale: Scale;
  /** Of the copy's cells. */
  top: number;
  left: number;
  rows: number;
  columns: number;
  data: Uint8Array;
}

/**
 * Lays tiles side by side.
 *
 * @throws Error when a tile does not have the shape that was asked for.
 */
export function joinTiles(
  level: Level,
  scale: Scale,
  tiles: readonly Tile[],
  parts: NumericArray[],
): PaePart {
  const top = Math.min(...tiles.map(({ start }) => start[0]));
  const left = Math.min(...tiles.map(({ start }) => start[1]));
  const rows = Math.max(...tiles.map(({ stop }) => stop[0])) - top;
  const columns = Math.max(...tiles.map(({ stop }) => stop[1])) - left;
  const data = new Uint8Array(rows * columns).fill(scale.missing);
  tiles.forEach(({ start, stop }, index) => {
    const part = parts[index];
    const width = stop[1] - start[1];
    if (part?.shape[0] !== stop[0] - start[0] || part.shape[1] !== width)
      throw new Error(`a tile of errors has the shape ${part?.shape.join(" x ") ?? "of nothing"}`);
    for (let row = start[0]; row < stop[0]; row += 1) {
      const from = (row - start[0]) * width;
      data.set(part.data.subarray(from, from + width), (row - top) * columns + start[1] - left);
    }
  });
  return { size: level.size, scale, top, left, rows, columns, data };
}

/** The error of a pair, Å, or the mean around it where a smaller copy was read; null where there is none. */
export function errorAt(part: PaePart, row: number, column: number): number | null {
  const y = Math.floor(row / part.size) - part.top;
  const x = Math.floor(column / part.size) - part.left;
  if (y < 0 || x < 0 || y >= part.rows || x >= part.columns) return null;
  const byte = part.data[y * part.columns + x];
  return byte === undefined || byte === part.scale.missing ? null : byte * part.scale.step;
}

/** The largest error that is drawn in a colour of its own, Å. */
export const LARGEST_ERROR = 31.75;

const RAMP: readonly Rgb[] = [
  [0, 68, 27],
  [35, 139, 69],
  [116, 196, 118],
  [199, 233, 192],
  [247, 252, 245],
];
const MISSING: Rgb = [150, 150, 150];

/** Dark green for no error, nearly white for the largest, in every colour scheme. */
export function errorColour(error: number): Rgb {
  const last = RAMP.length - 1;
  const place = Math.min(1, Math.max(0, error / LARGEST_ERROR)) * last;
  const index = Math.min(last - 1, Math.floor(place));
  const [low, high] = [RAMP[index] as Rgb, RAMP[index + 1] as Rgb];
  const mix = (channel: 0 | 1 | 2) =>
    Math.round(low[channel] + (high[channel] - low[channel]) * (place - index));
  return [mix(0), mix(1), mix(2)];
}

/** Draws a window of a part, one pixel a residue or, where that is more than `most` a side, the nearest. */
export function drawErrors(part: PaePart, window: Window, most: number): Pixels {
  const [rows, columns] = [window.bottom - window.top, window.right - window.left];
  const [height, width] = [rows, columns].map((count) => Math.max(1, Math.min(count, Math.floor(most)))) as [
    number,
    number,
  ];
  const table = Array.from({ length: 256 }, (_, byte) =>
    byte === part.scale.missing ? MISSING : errorColour(byte * part.scale.step),
  );
  const data = new Uint8ClampedArray(width * height * 4);
  for (let y = 0; y < height; y += 1) {
    const row = Math.floor((window.top + ((y + 0.5) * rows) / height) / part.size) - part.top;
    for (let x = 0; x < width; x += 1) {
      const column = Math.floor((window.left + ((x + 0.5) * columns) / width) / part.size) - part.left;
      const byte = part.data[row * part.columns + column] ?? part.scale.missing;
      data.set([...(table[byte] ?? MISSING), 255], (y * width + x) * 4);
    }
  }
  return { width, height, data };
}
