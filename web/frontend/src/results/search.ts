import { textParam } from "@/ui/search-params";

export interface ResultsSearch {
  /** Digest of the predictions that are shown, where a run has several. */
  predictions?: string;
  target?: string;
  /** Selected residues, counted from 1: `12-40`, or two ranges, `12-20,55-70`. */
  sel?: string;
}

export function resultsSearch(search: Record<string, unknown>): ResultsSearch {
  return {
    predictions: textParam(search, "predictions"),
    target: textParam(search, "target"),
    sel: textParam(search, "sel"),
  };
}
