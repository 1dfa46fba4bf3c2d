/** Residues are counted along all chains together, from 0; people and structure files count within each chain. */
import type { ResidueRange } from "@/structure/mol-viewer";
import type { Range } from "./contact-map-data";

export interface Chain {
  name: string;
  /** The index of its first residue among all. */
  start: number;
  length: number;
}

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/** A to Z, then AA, BA, CA and so on, as the written structures name their chains. */
export function chainName(index: number): string {
  let name = LETTERS[index % 26] ?? "";
  for (let rest = Math.floor(index / 26); rest > 0; rest = Math.floor((rest - 1) / 26)) {
    name += LETTERS[(rest - 1) % 26] ?? "";
  }
  return name;
}

/** The chains of sequences that are laid end to end. */
export function chainsOf(sequences: readonly string[]): Chain[] {
  let start = 0;
  return sequences.map((sequence, index) => {
    const chain = { name: chainName(index), start, length: sequence.length };
    start += sequence.length;
    return chain;
  });
}

/** `K48`, or `B:K48` where there are several chains. */
export function residueName(chains: readonly Chain[], sequence: string | null, index: number): string {
  const letter = sequence?.[index] ?? "";
  const chain = chains.length > 1 ? chains.find(({ start, length }) => index < start + length) : undefined;
  return chain ? `${chain.name}:${letter}${index - chain.start + 1}` : `${letter}${index + 1}`;
}

/** A range over all residues as ranges of chains; of the only chain where none are known. */
export function rangesInChains(chains: readonly Chain[], { from, to }: Range): ResidueRange[] {
  if (chains.length < 2) return [{ from: from + 1, to: to + 1 }];
  return chains.flatMap(({ name, start, length }) => {
    const [first, last] = [Math.max(from, start), Math.min(to, start + length - 1)];
    return first > last ? [] : [{ chain: name, from: first - start + 1, to: last - start + 1 }];
  });
}

/** Where a new chain begins, without the first. */
export function chainBorders(chains: readonly Chain[]): number[] {
  return chains.slice(1).map(({ start }) => start);
}
