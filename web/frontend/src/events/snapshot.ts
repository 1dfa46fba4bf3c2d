import { hashKey, type QueryClient, type QueryFilters } from "@tanstack/react-query";

import type { FeedEvent } from "./stream";

/**
 * Reads what is cached again, from the server's state as it is now.
 *
 * An invalidated query that is being read for the first time would be content with that read, which may
 * have begun before the change; so every read under way is given up first.
 */
export async function readAnew(client: QueryClient, filters: QueryFilters): Promise<void> {
  await client.cancelQueries(filters);
  await client.invalidateQueries(filters);
}

/**
 * Brings events into cached snapshots, in either order of their arrival.
 *
 * A snapshot that was on its way while events came in may be older than they are: they are applied once
 * more on top of it. An event that such a snapshot contains already does no harm, since the stream goes on to
 * the newest state of everything it speaks of.
 */
export class SnapshotFollower {
  private late: FeedEvent[] = [];
  private readonly unsubscribe: () => void;

  /**
   * @param filters which queries the events belong to.
   * @param apply changes what is cached for them; without effect on what is not there yet.
   */
  constructor(
    private readonly client: QueryClient,
    private readonly filters: QueryFilters,
    private readonly apply: (events: FeedEvent[]) => void,
  ) {
    this.unsubscribe = client.getQueryCache().subscribe((event) => {
      if (event.type !== "updated" || event.action.type !== "success" || event.action.manual) return;
      if (this.late.length > 0 && this.belongs(event.query.queryKey)) this.catchUp();
    });
  }

  receive(events: FeedEvent[]): void {
    if (this.client.isFetching(this.filters) > 0) this.late.push(...events);
    this.apply(events);
  }

  close(): void {
    this.unsubscribe();
  }

  private catchUp(): void {
    const events = this.late;
    // Another query of the same kind may still be on its way.
    if (this.client.isFetching(this.filters) === 0) this.late = [];
    this.apply(events);
  }

  private belongs(key: readonly unknown[]): boolean {
    const wanted = this.filters.queryKey ?? [];
    return hashKey(this.filters.exact ? key : key.slice(0, wanted.length)) === hashKey(wanted);
  }
}
