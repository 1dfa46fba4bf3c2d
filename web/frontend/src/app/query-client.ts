import { MutationCache, QueryCache, QueryClient } from "@tanstack/react-query";

import { isSignedOut } from "@/api/client";
import { Problem } from "@/api/problem";
import { keys } from "@/api/queries";

const RETRIES = 2;

/** The cache of everything read. An answer "not signed in" to anything shows the sign-in form. */
export function createQueryClient(): QueryClient {
  const onError = (error: unknown) => {
    if (isSignedOut(error)) client.setQueryData(keys.session, null);
  };
  const client: QueryClient = new QueryClient({
    queryCache: new QueryCache({ onError }),
    mutationCache: new MutationCache({ onError }),
    defaultOptions: {
      queries: {
        retry: (count, error) => count < RETRIES && error instanceof Problem && error.isTransient,
        refetchOnWindowFocus: false,
        networkMode: "always",
      },
      mutations: { networkMode: "always" },
    },
  });
  return client;
}
