import type { Fault } from "./types";

interface ProblemBody {
  status?: number;
  title?: string;
  code?: string;
  detail?: unknown;
  hint?: string | null;
  location?: Fault["location"];
  errors?: Fault[] | null;
}

/** What the server answered instead of a result: problem+json, or the failure to reach it at all. */
export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  readonly hint: string | null;
  readonly location: Fault["location"];
  readonly errors: Fault[];

  constructor(
    status: number,
    code: string,
    message: string,
    rest: Omit<ProblemBody, "status" | "code"> = {},
  ) {
    super(message);
    this.name = "Problem";
    this.status = status;
    this.code = code;
    this.hint = rest.hint ?? null;
    this.location = rest.location ?? null;
    this.errors = rest.errors ?? [];
  }

  /** Whether trying the same again later may succeed. */
  get isTransient(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

/** Reads a problem+json body; anything else (a proxy's HTML page) still becomes a readable problem. */
export function problemFrom(status: number, body: unknown): Problem {
  const fields: ProblemBody = typeof body === "object" && body !== null ? body : {};
  const message =
    typeof fields.detail === "string" ? fields.detail : (fields.title ?? `The server answered ${status}.`);
  return new Problem(status, fields.code ?? `http_${status}`, message, fields);
}

/** The server cannot be reached. */
export function unreachable(cause: unknown): Problem {
  const problem = new Problem(0, "unreachable", "The server cannot be reached.", {
    hint: "Is `foldase up` still running? The page tries again by itself.",
  });
  problem.cause = cause;
  return problem;
}

/** Any thrown value as a problem, so that every error state shows code, message and hint. */
export function asProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new Problem(-1, "page_error", message, {
    hint: "This is a fault of the page itself. Loading it again may help.",
  });
}
