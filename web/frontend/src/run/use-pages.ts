import { useEffect, useRef, useState } from "react";

/** One page of something that only grows: the lines of a log, the points of curves. */
export interface GrowingPage<Item> {
  items: Item[];
  /** Where the next page begins, in bytes. */
  next: number;
  /** Nothing will come any more, and everything was read. */
  end: boolean;
}

export interface Growing<Item> {
  items: Item[];
  /** How many were dropped from the front to stay within the limit. */
  dropped: number;
  loading: boolean;
  error: unknown;
}

interface Source<Item> {
  /** Changes when another thing is to be read from its beginning. */
  identity: string;
  enabled: boolean;
  /** The size that events report; a rise means that there is more to read. */
  grownTo: number;
  fetchPage: (offset: number, signal: AbortSignal) => Promise<GrowingPage<Item>>;
  most?: number;
}

/**
 * Reads something that grows, page by page, up to its present end and further whenever it has grown.
 * One request is under way at a time: news during a request is read after it.
 */
export function usePages<Item>({
  identity,
  enabled,
  grownTo,
  fetchPage,
  most = Infinity,
}: Source<Item>): Growing<Item> {
  const [state, setState] = useState<Growing<Item>>({ items: [], dropped: 0, loading: true, error: null });
  const fetcher = useRef(fetchPage);
  const read = useRef<() => void>(() => undefined);
  fetcher.current = fetchPage;

  useEffect(() => {
    setState({ items: [], dropped: 0, loading: enabled, error: null });
    if (!enabled) return;
    const controller = new AbortController();
    let position = 0;
    let busy = false;
    let again = false;

    const readToEnd = async () => {
      for (;;) {
        const page = await fetcher.current(position, controller.signal);
        if (controller.signal.aborted) return;
        const complete = page.end || page.next <= position;
        position = page.next;
        setState((known) => extend(known, page.items, !complete, most));
        if (complete) return;
      }
    };
    read.current = () => {
      again = true;
      if (busy) return;
      busy = true;
      const work = async () => {
        while (again && !controller.signal.aborted) {
          again = false;
          await readToEnd();
        }
      };
      work()
        .catch((error: unknown) => {
          if (!controller.signal.aborted) setState((known) => ({ ...known, loading: false, error }));
        })
        .finally(() => {
          busy = false;
        });
    };
    return () => {
      controller.abort();
      read.current = () => undefined;
    };
  }, [identity, enabled, most]);

  useEffect(() => read.current(), [identity, enabled, grownTo]);

  return state;
}

function extend<Item>(known: Growing<Item>, more: Item[], loading: boolean, most: number): Growing<Item> {
  if (more.length === 0) return { ...known, loading, error: null };
  const all = [...known.items, ...more];
  const surplus = Math.max(0, all.length - most);
  return {
    items: surplus > 0 ? all.slice(surplus) : all,
    dropped: known.dropped + surplus,
    loading,
    error: null,
  };
}
