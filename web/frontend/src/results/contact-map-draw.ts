/** From a contact map to pixels. No canvas here, so that it can be tested. */
import type { ContactMap, Window } from "./contact-map-data";

export type Rgb = readonly [red: number, green: number, blue: number];

export interface Palette {
  /** Colours for probabilities from 0 to 1, evenly spaced. */
  ramp: readonly Rgb[];
  truth: Rgb;
  background: Rgb;
  /** Pairs too close along the chain to be scored. */
  unscored: Rgb;
}

const PALETTES: Record<"light" | "dark", Palette> = {
  light: {
    ramp: [
      [255, 255, 255],
      [208, 231, 223],
      [101, 178, 155],
      [27, 102, 85],
      [7, 42, 34],
    ],
    truth: [72, 78, 75],
    background: [255, 255, 255],
    unscored: [236, 234, 226],
  },
  dark: {
    ramp: [
      [24, 32, 30],
      [27, 60, 51],
      [44, 124, 104],
      [98, 190, 165],
      [214, 246, 236],
    ],
    truth: [190, 200, 195],
    background: [24, 32, 30],
    unscored: [37, 47, 44],
  },
};

export function paletteFor(scheme: "light" | "dark"): Palette {
  return PALETTES[scheme];
}

/** The colour of a probability, between the two nearest of the ramp. */
export function colourOf(palette: Palette, value: number): Rgb {
  const last = palette.ramp.length - 1;
  const place = Math.min(1, Math.max(0, value)) * last;
  const index = Math.min(last - 1, Math.floor(place));
  const [low, high] = [palette.ramp[index] as Rgb, palette.ramp[index + 1] as Rgb];
  const share = place - index;
  const mix = (channel: 0 | 1 | 2) => Math.round(low[channel] + (high[channel] - low[channel]) * share);
  return [mix(0), mix(1), mix(2)];
}

const SHADES = 256;

function lookupTable(palette: Palette): Uint8ClampedArray {
  const table = new Uint8ClampedArray(SHADES * 3);
  for (let shade = 0; shade < SHADES; shade += 1)
    table.set(colourOf(palette, shade / (SHADES - 1)), shade * 3);
  return table;
}

export interface Pixels {
  width: number;
  height: number;
  /** RGBA. */
  data: Uint8ClampedArray<ArrayBuffer>;
}

interface Cell {
  /** Greatest probability in the cell, -1 where nothing of it is predicted. */
  probability: number;
  isContact: boolean;
  isUnscored: boolean;
}

/**
 * Draws a window of a map at no more than the given size. Above the diagonal stands the prediction, below it the
 * truth where there is one. Several pairs in one pixel show the strongest of them, so that no contact of a long
 * chain is lost.
 */
export function drawMap(
  map: ContactMap,
  window: Window,
  size: { width: number; height: number },
  threshold: number,
  palette: Palette,
): Pixels {
  const rows = window.bottom - window.top;
  const columns = window.right - window.left;
  const width = Math.max(1, Math.min(columns, Math.floor(size.width)));
  const height = Math.max(1, Math.min(rows, Math.floor(size.height)));
  const data = new Uint8ClampedArray(width * height * 4);
  const table = lookupTable(palette);
  for (let y = 0; y < height; y += 1) {
    const top = window.top + Math.floor((y * rows) / height);
    const bottom = Math.max(top + 1, window.top + Math.floor(((y + 1) * rows) / height));
    for (let x = 0; x < width; x += 1) {
      const left = window.left + Math.floor((x * columns) / width);
      const right = Math.max(left + 1, window.left + Math.floor(((x + 1) * columns) / width));
      const cell = strongest(map, { top, bottom, left, right }, threshold);
      paint(data, (y * width + x) * 4, cell, palette, table);
    }
  }
  return { width, height, data };
}

function strongest(map: ContactMap, { top, bottom, left, right }: Window, threshold: number): Cell {
  const { length, probability, truth, minSeparation } = map;
  const cell: Cell = { probability: -1, isContact: false, isUnscored: true };
  for (let i = top; i < bottom; i += 1) {
    for (let j = left; j < right; j += 1) {
      if (Math.abs(i - j) < Math.max(1, minSeparation)) continue;
      cell.isUnscored = false;
      if (truth !== null && i > j) {
        cell.isContact ||= truth[i * length + j] === 1;
      } else {
        const value = probability[i * length + j] as number;
        if (value >= threshold && value > cell.probability) cell.probability = value;
      }
    }
  }
  return cell;
}

function paint(
  data: Uint8ClampedArray,
  offset: number,
  cell: Cell,
  palette: Palette,
  table: Uint8ClampedArray,
): void {
  data[offset + 3] = 255;
  if (cell.probability >= 0) {
    const shade = Math.round(Math.min(1, cell.probability) * (SHADES - 1)) * 3;
    for (let channel = 0; channel < 3; channel += 1)
      data[offset + channel] = table[shade + channel] as number;
    return;
  }
  const colour = cell.isContact ? palette.truth : cell.isUnscored ? palette.unscored : palette.background;
  for (let channel = 0; channel < 3; channel += 1) data[offset + channel] = colour[channel] as number;
}

/** Positions for axis labels: round numbers, residues counted from 1, at most `most` of them. */
export function axisTicks(from: number, to: number, most: number): number[] {
  const span = Math.max(1, to - from);
  const raw = span / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(Math.max(1, raw)));
  const step =
    [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw) ?? 10 * power;
  const ticks: number[] = [];
  for (let residue = Math.ceil((from + 1) / step) * step; residue <= to; residue += step) ticks.push(residue);
  return ticks;
}
