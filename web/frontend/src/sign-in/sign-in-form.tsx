import { Button, PasswordInput } from "@mantine/core";
import { type FormEvent, useEffect, useState } from "react";

import { Brand } from "@/ui/brand";
import { CommandLine } from "@/ui/copy";
import { Notice } from "@/ui/notice";
import { ProblemAlert } from "@/ui/problem-alert";
import { useSignIn } from "./session-gate";
import classes from "./sign-in.module.css";

/** Asks for the token. `linkError` is why a one-time link did not work. */
export function SignInForm({ linkError }: { linkError: unknown }) {
  const [token, setToken] = useState("");
  const [missing, setMissing] = useState(false);
  const signIn = useSignIn();

  useEffect(() => {
    document.title = "Sign in · foldase";
  }, []);

  const submit = (event: FormEvent) => {
    event.preventDefault();
    setMissing(token.trim() === "");
    if (token.trim() !== "") signIn.mutate({ token: token.trim() });
  };

  return (
    <main className={classes.frame} data-page="sign-in">
      <div className={classes.card}>
        <Brand />
        <h1>Sign in</h1>
        {linkError != null && signIn.isIdle && (
          <Notice kind="warning" title="This sign-in link no longer works" live>
            A link works once. Start <code>foldase up</code> again for a new one, or paste the token.
          </Notice>
        )}
        <form onSubmit={submit} noValidate>
          <PasswordInput
            label="Access token"
            description="It was made when foldase first started on this machine."
            value={token}
            onChange={(event) => setToken(event.currentTarget.value)}
            error={missing ? "Paste the token first." : undefined}
            autoComplete="current-password"
            autoFocus
            visibilityToggleButtonProps={{ "aria-label": "Show the token", tabIndex: 0 }}
          />
          <Button type="submit" loading={signIn.isPending} fullWidth mt="md">
            Sign in
          </Button>
        </form>
        {signIn.isError && <ProblemAlert title="You are not signed in" error={signIn.error} />}
        <div className={classes.help}>
          <p>Where to find it: the token lies in the folder that foldase runs in, readable only by you.</p>
          <CommandLine command="cat .foldase/token" what="command that prints the token" />
        </div>
      </div>
    </main>
  );
}
