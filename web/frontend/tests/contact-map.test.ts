import { describe, expect, it } from "vitest";

import { decodeArray } from "@/api/artifacts";
import { bandOf, mean } from "@/results/confidence";
import {
  agreementAt,
  type ContactMap,
  formatSelection,
  pairAt,
  parseSelection,
  toContactMap,
  topContacts,
  wholeMap,
} from "@/results/contact-map-data";
import { axisTicks, colourOf, drawMap, paletteFor } from "@/results/contact-map-draw";

/** A symmetric map from probabilities and contacts of pairs i < j. */
function makeMap(length: number, pairs: [i: number, j: number, p: number, contact?: boolean][]): ContactMap {
  const probability = new Float32Array(length * length);
  const truth = new Uint8Array(length * length);
  for (const [i, j, p, contact] of pairs) {
    probability[i * length + j] = probability[j * length + i] = p;
    truth[i * length + j] = truth[j * length + i] = contact ? 1 : 0;
  }
  return { length, probability, truth, minSeparation: 2 };
}

const MAP = makeMap(6, [
  [0, 1, 0.99],
  [0, 3, 0.75, true],
  [1, 4, 0.5, true],
  [2, 5, 0.25, false],
  [0, 5, 0.125, true],
]);

describe("decodeArray", () => {
  it("reads numbers and shape from the headers", () => {
    const bytes = Float32Array.from([1, 2, 3, 4, 5, 6]).buffer;
    expect(decodeArray(bytes, "float32", "2,3")).toEqual({
      shape: [2, 3],
      data: Float32Array.from([1, 2, 3, 4, 5, 6]),
    });
    expect(decodeArray(Uint8Array.from([1, 0]).buffer, "bool", "(2,)").data).toEqual(Uint8Array.from([1, 0]));
  });

  it("refuses what it cannot draw or what is cut short", () => {
    expect(() => decodeArray(new ArrayBuffer(8), "complex64", "1")).toThrow("complex64");
    expect(() => decodeArray(new ArrayBuffer(8), "float32", "3")).toThrow("holds 2");
  });
});

describe("toContactMap", () => {
  it("wants square arrays of one size", () => {
    const square = { shape: [2, 2], data: new Float32Array(4) };
    expect(toContactMap(square, null, 1).truth).toBeNull();
    expect(() => toContactMap({ shape: [2, 3], data: new Float32Array(6) }, null, 1)).toThrow("2 x 3");
    expect(() => toContactMap(square, { shape: [3, 3], data: new Uint8Array(9) }, 1)).toThrow("3 x 3");
  });
});

describe("pairs", () => {
  it("is the same whichever way round", () => {
    expect(pairAt(MAP, 3, 0)).toEqual({ i: 0, j: 3, probability: 0.75, isContact: true });
    expect(pairAt({ ...MAP, truth: null }, 0, 3).isContact).toBeNull();
  });

  it("ranks pairs that are far enough apart", () => {
    expect(topContacts(MAP, 3).map(({ i, j }) => [i, j])).toEqual([
      [0, 3],
      [1, 4],
      [2, 5],
    ]);
  });

  it("ranks as sorting everything would, ties in order of residues", () => {
    const length = 40;
    let state = 7;
    const random = () => (state = (state * 48271) % 2147483647) / 2147483647;
    const pairs: [number, number, number][] = [];
    for (let i = 0; i < length; i += 1) {
      for (let j = i + 1; j < length; j += 1) pairs.push([i, j, Math.fround(Math.round(random() * 50) / 50)]);
    }
    const map = makeMap(length, pairs);
    const expected = pairs
      .filter(([i, j]) => j - i >= 2)
      .sort((left, right) => right[2] - left[2] || left[0] - right[0] || left[1] - right[1])
      .slice(0, 60)
      .map(([i, j]) => [i, j]);
    expect(topContacts(map, 60).map(({ i, j }) => [i, j])).toEqual(expected);
  });

  it("compares a threshold with the truth", () => {
    expect(agreementAt(MAP, 0.25)).toEqual({ predicted: 3, actual: 3, right: 2 });
    expect(agreementAt({ ...MAP, truth: null }, 0.25)).toEqual({ predicted: 3, actual: null, right: null });
  });
});

describe("selections", () => {
  it("are written and read, counted from 1", () => {
    const selection = { rows: { from: 0, to: 2 }, columns: { from: 4, to: 4 } };
    expect(formatSelection(selection)).toBe("1-3,5");
    expect(parseSelection("1-3,5", 6)).toEqual(selection);
    expect(parseSelection("2-4", 6)).toEqual({ rows: { from: 1, to: 3 }, columns: { from: 1, to: 3 } });
  });

  it("outside the chain or malformed are none", () => {
    for (const text of [undefined, "", "0", "7", "4-2", "1,2,3", "x", "1-2,9"])
      expect(parseSelection(text, 6)).toBeNull();
  });
});

describe("drawMap", () => {
  const palette = paletteFor("light");
  const pixel = (data: Uint8ClampedArray, index: number) => [...data.slice(index * 4, index * 4 + 3)];

  it("draws the prediction above the diagonal and the truth below it", () => {
    const drawn = drawMap(MAP, wholeMap(6), { width: 100, height: 100 }, 0, palette);
    expect([drawn.width, drawn.height]).toEqual([6, 6]);
    expect(pixel(drawn.data, 0 * 6 + 3)).toEqual(
      [...colourOf(palette, 0.75)].map((value) => expect.closeTo(value, -1)),
    );
    expect(pixel(drawn.data, 3 * 6 + 0)).toEqual([...palette.truth]);
    expect(pixel(drawn.data, 4 * 6 + 0)).toEqual([...palette.background]);
    expect(pixel(drawn.data, 0 * 6 + 1)).toEqual([...palette.unscored]);
  });

  it("draws both halves from the prediction when the truth is unknown", () => {
    const drawn = drawMap({ ...MAP, truth: null }, wholeMap(6), { width: 6, height: 6 }, 0, palette);
    expect(pixel(drawn.data, 3 * 6 + 0)).toEqual(pixel(drawn.data, 0 * 6 + 3));
  });

  it("leaves out what lies below the threshold", () => {
    const drawn = drawMap(MAP, wholeMap(6), { width: 6, height: 6 }, 0.6, palette);
    expect(pixel(drawn.data, 1 * 6 + 4)).toEqual([...palette.background]);
  });

  it("keeps the strongest of the pairs that share a pixel", () => {
    const map = makeMap(100, [[3, 90, 0.9]]);
    const drawn = drawMap(map, wholeMap(100), { width: 10, height: 10 }, 0, palette);
    expect(drawn.width).toBe(10);
    const strongest = pixel(drawn.data, 0 * 10 + 9);
    expect(strongest).toEqual([...colourOf(palette, 0.9)].map((value) => expect.closeTo(value, -1)));
  });

  it("draws a part", () => {
    const drawn = drawMap(
      MAP,
      { top: 0, bottom: 2, left: 3, right: 6 },
      { width: 50, height: 50 },
      0,
      palette,
    );
    expect([drawn.width, drawn.height]).toEqual([3, 2]);
    expect(pixel(drawn.data, 0)).toEqual(
      [...colourOf(palette, 0.75)].map((value) => expect.closeTo(value, -1)),
    );
  });
});

describe("axes and bands", () => {
  it("puts ticks at round residues", () => {
    expect(axisTicks(0, 28, 6)).toEqual([5, 10, 15, 20, 25]);
    expect(axisTicks(0, 2000, 6)).toEqual([500, 1000, 1500, 2000]);
    expect(axisTicks(40, 44, 6)).toEqual([41, 42, 43, 44]);
  });

  it("puts the edges into the lower band", () => {
    expect([50, 50.01, 70, 70.01, 90, 90.01].map((value) => bandOf(value).name)).toEqual([
      "Very low",
      "Low",
      "Low",
      "Confident",
      "Confident",
      "Very high",
    ]);
    expect(mean([1, NaN, 3])).toBe(2);
    expect(mean([])).toBeNull();
  });
});
