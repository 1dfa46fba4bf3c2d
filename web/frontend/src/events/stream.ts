/** One server-sent event as the pages see it. */
export interface FeedEvent {
  kind: EventKind;
  data: EventData;
}

export interface EventData {
  seq: number;
  run?: string | null;
  step?: string | null;
  time?: string;
  [field: string]: unknown;
}

export const EVENT_KINDS = [
  "run.created",
  "run.state",
  "run.outputs",
  "step.state",
  "step.progress",
  "step.plan",
  "step.log",
  "step.metrics",
  "cluster.state",
  "resync",
] as const;

export type EventKind = (typeof EVENT_KINDS)[number];

/** `live`: events arrive. `retrying`: the connection was lost and is being tried again. */
export type StreamStatus = "connecting" | "live" | "retrying" | "closed";

export interface StreamHandlers {
  /** Called with everything that arrived in one moment, in order. */
  onEvents(events: FeedEvent[]): void;
  onStatus(status: StreamStatus): void;
  /** Called when the past may have been missed, so that a snapshot has to be read again. */
  onResync(): void;
}

/**
 * An id beyond any log: the server answers with `resync` and the present end of its log, and goes on from
 * there. So the past is read once, as a snapshot, and never replayed over it.
 */
const PRESENT = Number.MAX_SAFE_INTEGER;

const FLUSH_MILLISECONDS = 100;
const RETRY_MILLISECONDS = [1_000, 2_000, 5_000, 10_000];

/**
 * Follows a stream of events until it is closed.
 *
 * The browser's EventSource resumes by itself with `Last-Event-ID` after a cut. When it gives up (the server
 * answered with an error, for example while it restarts), a new one is opened from the last id that was seen.
 */
export class EventStream {
  private source: EventSource | null = null;
  private lastSeq: number | null = null;
  private failures = 0;
  private pending: FeedEvent[] = [];
  private flushTimer: ReturnType<typeof setTimeout> | undefined;
  private retryTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly url: string,
    private readonly handlers: StreamHandlers,
    private readonly open: (url: string) => EventSource = (address) => new EventSource(address),
  ) {
    this.connect();
  }

  close(): void {
    clearTimeout(this.flushTimer);
    clearTimeout(this.retryTimer);
    this.source?.close();
    this.source = null;
    this.handlers.onStatus("closed");
  }

  private connect(): void {
    const source = this.open(`${this.url}?after=${this.lastSeq ?? PRESENT}`);
    this.source = source;
    source.onopen = () => {
      this.failures = 0;
      this.handlers.onStatus("live");
    };
    source.onerror = () => {
      this.handlers.onStatus("retrying");
      if (source.readyState === source.CLOSED) this.connectLater();
    };
    for (const kind of EVENT_KINDS) {
      source.addEventListener(kind, (message) => this.receive(kind, message as MessageEvent<string>));
    }
  }

  private connectLater(): void {
    this.source?.close();
    const wait = RETRY_MILLISECONDS[Math.min(this.failures, RETRY_MILLISECONDS.length - 1)];
    this.failures += 1;
    clearTimeout(this.retryTimer);
    this.retryTimer = setTimeout(() => this.connect(), wait);
  }

  private receive(kind: EventKind, message: MessageEvent<string>): void {
    const data = JSON.parse(message.data) as EventData;
    const seq = Number(message.lastEventId || data.seq);
    if (kind === "resync") {
      this.lastSeq = seq;
      this.handlers.onResync();
      return;
    }
    if (this.lastSeq !== null && seq <= this.lastSeq) return;
    this.lastSeq = seq;
    this.pending.push({ kind, data });
    this.flushTimer ??= setTimeout(() => this.flush(), FLUSH_MILLISECONDS);
  }

  private flush(): void {
    this.flushTimer = undefined;
    const events = this.pending;
    this.pending = [];
    this.handlers.onEvents(events);
  }
}
