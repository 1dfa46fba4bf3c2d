import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { EventStream, type FeedEvent, type StreamStatus } from "@/events/stream";

/** Stands in for the browser's EventSource and is driven by the test. */
class FakeSource {
  static all: FakeSource[] = [];
  readonly CLOSED = 2;
  readyState = 0;
  onopen: (() => void) | null = null;
  onerror: (() => void) | null = null;
  closed = false;
  private readonly listeners = new Map<string, (message: MessageEvent<string>) => void>();

  constructor(readonly url: string) {
    FakeSource.all.push(this);
  }

  addEventListener(kind: string, listener: (message: MessageEvent<string>) => void): void {
    this.listeners.set(kind, listener);
  }

  send(kind: string, seq: number, data: object = {}): void {
    const message = { data: JSON.stringify({ seq, ...data }), lastEventId: String(seq) };
    this.listeners.get(kind)?.(message as MessageEvent<string>);
  }

  close(): void {
    this.closed = true;
    this.readyState = this.CLOSED;
  }
}

function follow() {
  const batches: FeedEvent[][] = [];
  const statuses: StreamStatus[] = [];
  let resyncs = 0;
  const stream = new EventStream(
    "/events",
    {
      onEvents: (events) => batches.push(events),
      onStatus: (status) => statuses.push(status),
      onResync: () => {
        resyncs += 1;
      },
    },
    (url) => new FakeSource(url) as unknown as EventSource,
  );
  return { stream, batches, statuses, resyncs: () => resyncs };
}

beforeEach(() => {
  vi.useFakeTimers();
  FakeSource.all = [];
});

afterEach(() => vi.useRealTimers());

describe("EventStream", () => {
  it("asks for the present and reads a snapshot when the server has said where that is", () => {
    const { resyncs } = follow();
    expect(FakeSource.all[0]?.url).toBe(`/events?after=${Number.MAX_SAFE_INTEGER}`);
    FakeSource.all[0]?.send("resync", 40);
    expect(resyncs()).toBe(1);
  });

  it("hands on what arrives together as one batch, in order", () => {
    const { batches } = follow();
    const source = FakeSource.all[0] as FakeSource;
    source.send("run.state", 1);
    source.send("step.state", 2);
    vi.advanceTimersByTime(100);
    source.send("step.log", 3);
    vi.advanceTimersByTime(100);
    expect(batches.map((batch) => batch.map((event) => event.data.seq))).toEqual([[1, 2], [3]]);
  });

  it("drops events that it has seen, as a resumed stream may repeat some", () => {
    const { batches } = follow();
    const source = FakeSource.all[0] as FakeSource;
    for (const seq of [5, 6, 6, 5, 7]) source.send("step.state", seq);
    vi.advanceTimersByTime(100);
    expect(batches.flat().map((event) => event.data.seq)).toEqual([5, 6, 7]);
  });

  it("leaves a cut connection to the browser, and says so", () => {
    const { statuses } = follow();
    const source = FakeSource.all[0] as FakeSource;
    source.onopen?.();
    source.onerror?.();
    vi.advanceTimersByTime(60_000);
    expect(statuses).toEqual(["live", "retrying"]);
    expect(FakeSource.all).toHaveLength(1);
  });

  it("opens another stream after the last id when the browser has given up", () => {
    follow();
    const first = FakeSource.all[0] as FakeSource;
    first.send("run.state", 12);
    first.readyState = first.CLOSED;
    first.onerror?.();
    vi.advanceTimersByTime(1_000);
    expect(FakeSource.all.map((source) => source.url)).toEqual([first.url, "/events?after=12"]);
  });

  it("waits longer after each failure", () => {
    follow();
    const delays: number[] = [];
    for (let round = 0; round < 5; round += 1) {
      const source = FakeSource.all[round] as FakeSource;
      source.readyState = source.CLOSED;
      source.onerror?.();
      let waited = 0;
      while (FakeSource.all.length === round + 1) {
        vi.advanceTimersByTime(500);
        waited += 500;
      }
      delays.push(waited);
    }
    expect(delays).toEqual([1_000, 2_000, 5_000, 10_000, 10_000]);
  });

  it("does nothing more once it is closed", () => {
    const { stream, batches, statuses } = follow();
    const source = FakeSource.all[0] as FakeSource;
    source.send("run.state", 1);
    stream.close();
    vi.advanceTimersByTime(60_000);
    expect(source.closed).toBe(true);
    expect(batches).toEqual([]);
    expect(statuses).toEqual(["closed"]);
  });
});
