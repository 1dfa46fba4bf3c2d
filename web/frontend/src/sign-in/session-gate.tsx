import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useEffect, useRef, useState } from "react";

import { api, unwrap } from "@/api/client";
import { keys, sessionQuery } from "@/api/queries";
import { LoadingLines } from "@/ui/loading";
import { ProblemAlert } from "@/ui/problem-alert";
import { takeCode } from "./one-time-code";
import classes from "./sign-in.module.css";
import { SignInForm } from "./sign-in-form";

export type Credentials = { code: string } | { token: string };

/** Exchanges a code or a token for a session. */
export function useSignIn() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: async (body: Credentials) =>
      (await unwrap(api.POST("/api/v1/session", { body }))) as { user: { name: string } },
    onSuccess: (session) => client.setQueryData(keys.session, session),
  });
}

/**
 * Shows the app to those who are signed in, and the sign-in form, at the same address, to all others.
 * `firstCode` is that of the link the page was opened with.
 */
export function SessionGate({ firstCode, children }: { firstCode: string | null; children: ReactNode }) {
  const exchange = useSignIn();
  const exchanged = useRef<string | null>(null);
  const [code, setCode] = useState(firstCode);
  const { mutate } = exchange;

  useEffect(() => {
    // Another link that is opened in this tab only changes what stands behind the #.
    const onHashChange = () => setCode((known) => takeCode() ?? known);
    window.addEventListener("hashchange", onHashChange);
    return () => window.removeEventListener("hashchange", onHashChange);
  }, []);

  useEffect(() => {
    if (code === null || exchanged.current === code) return;
    exchanged.current = code;
    mutate({ code });
  }, [code, mutate]);

  const exchangeDone = code === null || exchange.isSuccess || exchange.isError;
  const session = useQuery({ ...sessionQuery, enabled: exchangeDone });

  if (session.data) return children;
  if (session.isError) {
    return (
      <main className={classes.frame} data-page="unreachable">
        <div className={classes.card}>
          <ProblemAlert
            title="The page could not find out who is signed in"
            error={session.error}
            onRetry={() => void session.refetch()}
          />
        </div>
      </main>
    );
  }
  if (!exchangeDone || session.data === undefined) {
    return (
      <main className={classes.frame} data-page="signing-in">
        <div className={classes.card}>
          <LoadingLines lines={3} what="your session" />
        </div>
      </main>
    );
  }
  return <SignInForm linkError={exchange.error} />;
}
