import { choiceParam, textParam } from "@/ui/search-params";

export interface RunSearch {
  tab?: "steps" | "artifacts" | "provenance";
  step?: string;
}

export function runSearch(search: Record<string, unknown>): RunSearch {
  return {
    tab: choiceParam(search, "tab", ["steps", "artifacts", "provenance"]),
    step: textParam(search, "step"),
  };
}
