import createClient, { type Middleware } from "openapi-fetch";

import { Problem, problemFrom, unreachable } from "./problem";
import type { paths } from "./schema.gen";

/** Sent with every request that changes something: a foreign page cannot add it without our consent. */
export const CSRF_HEADERS = { "X-Foldase-CSRF": "1" } as const;

const SAFE_METHODS = new Set(["GET", "HEAD"]);

const guard: Middleware = {
  onRequest({ request }) {
    if (!SAFE_METHODS.has(request.method)) {
      for (const [name, value] of Object.entries(CSRF_HEADERS)) request.headers.set(name, value);
    }
    return request;
  },
  onError({ error }) {
    if (error instanceof DOMException && error.name === "AbortError") return error;
    return unreachable(error);
  },
};

/** The typed client; its paths and shapes are generated from the server's OpenAPI document. */
export const api = createClient<paths>({ credentials: "same-origin" });
api.use(guard);

interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** The body of a successful answer; everything else is thrown as a {@link Problem}. */
export async function unwrap<T>(pending: Promise<Answer<T>>): Promise<T> {
  const { data, error, response } = await pending;
  if (!response.ok) throw problemFrom(response.status, error);
  return data as T;
}

/** GET raw bytes or text of an artifact, with failures as problems. */
export async function fetchRaw(path: string, signal?: AbortSignal): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, { credentials: "same-origin", signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw unreachable(error);
  }
  if (response.ok) return response;
  const body: unknown = await response.json().catch(() => null);
  throw problemFrom(response.status, body);
}

/** Whether an error says that nobody is signed in. */
export function isSignedOut(error: unknown): boolean {
  return error instanceof Problem && error.status === 401;
}
