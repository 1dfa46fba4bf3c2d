import { choiceParam, textParam } from "@/ui/search-params";

export interface NewRunSearch {
  tab?: "catalog" | "yaml";
  workflow?: string;
  /** A run whose document and inputs are taken over. */
  from?: string;
}

export function newRunSearch(search: Record<string, unknown>): NewRunSearch {
  return {
    tab: choiceParam(search, "tab", ["catalog", "yaml"]),
    workflow: textParam(search, "workflow"),
    from: textParam(search, "from"),
  };
}
