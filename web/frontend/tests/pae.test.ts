import { describe, expect, it } from "vitest";

import type { NumericArray } from "@/api/artifacts";
import { wholeMap } from "@/results/contact-map-data";
import {
  drawErrors,
  errorAt,
  errorColour,
  joinTiles,
  LEVELS,
  levelFor,
  type Tile,
  tilesFor,
} from "@/results/pae-data";

const SCALE = { step: 0.125, missing: 255 };

/** A tile whose every byte tells its row and column in the whole: ten times the row, and the column. */
function makePart({ start, stop }: Tile): NumericArray {
  const shape = [stop[0] - start[0], stop[1] - start[1]];
  const data = new Uint8Array((shape[0] ?? 0) * (shape[1] ?? 0));
  for (let index = 0; index < data.length; index += 1) {
    const row = start[0] + Math.floor(index / (shape[1] ?? 1));
    data[index] = row * 10 + start[1] + (index % (shape[1] ?? 1));
  }
  return { shape, data };
}

function makeTile(top: number, left: number, bottom: number, right: number): Tile {
  return { start: [top, left], stop: [bottom, right] };
}

describe("levels and tiles", () => {
  it("take the finest copy that is not too large", () => {
    expect(levelFor(wholeMap(1024)).name).toBe("pae");
    expect(levelFor(wholeMap(1025)).name).toBe("pae_lod1");
    expect(levelFor(wholeMap(4097)).name).toBe("pae_lod2");
    expect(levelFor(wholeMap(40_000)).name).toBe("pae_lod2");
    expect(levelFor({ top: 2000, bottom: 2300, left: 10, right: 20 }).name).toBe("pae");
  });

  it("cover the window, cut at the end of the chain, and no more", () => {
    expect(tilesFor(wholeMap(300), LEVELS[0], 300)).toEqual([
      makeTile(0, 0, 256, 256),
      makeTile(0, 256, 256, 300),
      makeTile(256, 0, 300, 256),
      makeTile(256, 256, 300, 300),
    ]);
    const window = { top: 250, bottom: 256, left: 256, right: 257 };
    expect(tilesFor(window, LEVELS[0], 300)).toEqual([makeTile(0, 256, 256, 300)]);
    expect(tilesFor(wholeMap(2000), LEVELS[1], 2000)).toHaveLength(4);
  });
});

describe("errors", () => {
  const tiles = [makeTile(0, 0, 2, 2), makeTile(0, 2, 2, 3), makeTile(2, 0, 3, 2), makeTile(2, 2, 3, 3)];
  const part = joinTiles(LEVELS[0], SCALE, tiles, tiles.map(makePart));

  it("are read across tiles", () => {
    expect(part).toMatchObject({ top: 0, left: 0, rows: 3, columns: 3 });
    expect(errorAt(part, 0, 1)).toBe(0.125);
    expect(errorAt(part, 1, 2)).toBe(1.5);
    expect(errorAt(part, 2, 0)).toBe(2.5);
    expect(errorAt(part, 3, 0)).toBeNull();
  });

  it("of a smaller copy stand for the residues around", () => {
    const coarse = joinTiles(LEVELS[1], SCALE, tiles, tiles.map(makePart));
    expect(errorAt(coarse, 7, 11)).toBe(1.5);
    expect(errorAt(coarse, 4, 8)).toBe(1.5);
  });

  it("that are missing are told and drawn as such", () => {
    const tile = makeTile(0, 0, 1, 2);
    const data = Uint8Array.from([255, 0]);
    const gap = joinTiles(LEVELS[0], SCALE, [tile], [{ shape: [1, 2], data }]);
    expect(errorAt(gap, 0, 0)).toBeNull();
    const drawn = drawErrors(gap, { top: 0, bottom: 1, left: 0, right: 2 }, 100);
    expect([...drawn.data]).toEqual([150, 150, 150, 255, ...errorColour(0), 255]);
  });

  it("refuse a tile of another shape", () => {
    expect(() => joinTiles(LEVELS[0], SCALE, tiles, tiles.slice(1).map(makePart))).toThrow("2 x 1");
  });

  it("are dark where small and light where large", () => {
    expect(errorColour(0)).toEqual([0, 68, 27]);
    expect(errorColour(100)).toEqual([247, 252, 245]);
    const pixels = drawErrors(part, { top: 1, bottom: 3, left: 0, right: 2 }, 1);
    expect([pixels.width, pixels.height]).toEqual([1, 1]);
    expect([...pixels.data.slice(0, 3)]).toEqual([...errorColour(21 * 0.125)]);
  });
});
