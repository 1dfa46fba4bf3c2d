import { useQueries } from "@tanstack/react-query";
import { useMemo } from "react";

import { groupQuery, jsonQuery } from "@/api/artifacts";
import { type FoldResults, readFolds, readRanking, readStatus } from "./folds";
import type { ResultOutputs, Shown } from "./outputs";

/**
 * What the run's tables and trees tell of folding; null until all are read. Those that are of another kind, or
 * cannot be read, are left to the panels that show them and to the downloads.
 */
export function useFoldResults({ tables, trees }: ResultOutputs): FoldResults | null {
  const documents = useQueries({ queries: tables.map(({ artifact }) => jsonQuery(artifact.digest)) });
  const roots = useQueries({ queries: trees.map(({ artifact }) => groupQuery(artifact.digest, "")) });
  const isPending = [...documents, ...roots].some((query) => query.isPending);
  const contents = documents.map((query) => query.data);
  const attributes = roots.map((query) => query.data?.attributes);
  return useMemo(() => {
    if (isPending) return null;
    const folds = trees.map((shown, index) => ({
      shown,
      value: readFolds(shown.artifact.digest, attributes[index]),
    }));
    return {
      statuses: tables.flatMap((shown, index) => read(shown, readStatus(contents[index]))),
      rankings: tables.flatMap((shown, index) => read(shown, readRanking(contents[index]))),
      folds: folds.filter(({ value }) => value.length > 0),
    };
  }, [isPending, ...contents, ...attributes]); // eslint-disable-line react-hooks/exhaustive-deps
}

function read<T>(shown: Shown, value: T | null): { shown: Shown; value: T }[] {
  return value === null ? [] : [{ shown, value }];
}
