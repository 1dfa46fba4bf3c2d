import { QueryClient, QueryObserver } from "@tanstack/react-query";
import { afterEach, beforeEach, describe, expect, it } from "vitest";

import { readAnew, SnapshotFollower } from "@/events/snapshot";
import type { FeedEvent } from "@/events/stream";

const KEY = ["run", "r1"] as const;

/** A server whose answers are sent when the test says so, with the state at the time they were asked for. */
class SlowServer {
  state = "running";
  private readonly waiting: (() => void)[] = [];

  ask = (): Promise<string> => {
    const seen = this.state;
    return new Promise((resolve) => this.waiting.push(() => resolve(seen)));
  };

  get asked(): number {
    return this.waiting.length;
  }

  async answer(index: number): Promise<void> {
    this.waiting[index]?.();
    await settled();
  }
}

const settled = () => new Promise((resolve) => setTimeout(resolve, 5));
const succeeded: FeedEvent = { kind: "run.state", data: { seq: 7, state: "succeeded" } };

let client: QueryClient;
let server: SlowServer;
let follower: SnapshotFollower;
let leave: () => void;

const shown = () => client.getQueryData<string>(KEY);

beforeEach(() => {
  client = new QueryClient({ defaultOptions: { queries: { networkMode: "always", retry: false } } });
  server = new SlowServer();
  follower = new SnapshotFollower(client, { queryKey: KEY, exact: true }, (events) =>
    client.setQueryData<string>(KEY, (known) => (known ? String(events.at(-1)?.data.state) : known)),
  );
  leave = new QueryObserver(client, { queryKey: KEY, queryFn: server.ask }).subscribe(() => undefined);
});

afterEach(() => {
  follower.close();
  leave();
  client.clear();
});

describe("a snapshot and events", () => {
  it("an event that comes before the first snapshot is not lost", async () => {
    server.state = "succeeded";
    follower.receive([succeeded]);
    expect(shown()).toBeUndefined();
    await server.answer(0);
    expect(shown()).toBe("succeeded");
  });

  it("an event is not undone by a snapshot that was asked for before it", async () => {
    await server.answer(0);
    void readAnew(client, { queryKey: KEY });
    await settled();
    server.state = "succeeded";
    follower.receive([succeeded]);
    expect(shown()).toBe("succeeded");
    await server.answer(1);
    expect(shown()).toBe("succeeded");
  });

  it("a snapshot that is asked for after an event is taken as it is", async () => {
    await server.answer(0);
    follower.receive([{ kind: "run.state", data: { seq: 6, state: "waiting" } }]);
    expect(shown()).toBe("waiting");
    void readAnew(client, { queryKey: KEY });
    await settled();
    await server.answer(1);
    expect(shown()).toBe("running");
  });

  it("is not content with a first read that began before", async () => {
    server.state = "succeeded";
    void readAnew(client, { queryKey: KEY });
    await settled();
    expect(server.asked).toBe(2);
    await server.answer(0);
    expect(shown()).toBeUndefined();
    await server.answer(1);
    expect(shown()).toBe("succeeded");
  });

  it("leaves other queries alone", async () => {
    await server.answer(0);
    const applied: FeedEvent[][] = [];
    const other = new SnapshotFollower(client, { queryKey: ["runs"] }, (events) => applied.push(events));
    void client.fetchQuery({ queryKey: ["runs", {}], queryFn: () => settled().then(() => "rows") });
    other.receive([succeeded]);
    void readAnew(client, { queryKey: KEY });
    await settled();
    await server.answer(1);
    await settled();
    expect(applied).toEqual([[succeeded], [succeeded]]);
    other.close();
  });
});
