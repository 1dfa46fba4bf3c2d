import { ActionIcon, Button, useComputedColorScheme, useMantineColorScheme } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, Outlet, useRouterState } from "@tanstack/react-router";
import { useEffect, useRef } from "react";

import { api, unwrap } from "@/api/client";
import { healthQuery, keys, sessionQuery } from "@/api/queries";
import { Brand } from "@/ui/brand";
import { MoonIcon, SunIcon } from "@/ui/icons";
import { ClusterBanner } from "./cluster-banner";
import classes from "./shell.module.css";

/** What surrounds every page: the way around, the state of the cluster, colours, signing out. */
export function Shell() {
  const main = useRef<HTMLElement>(null);
  const path = useRouterState({ select: (state) => state.location.pathname });
  const previousPath = useRef(path);

  useEffect(() => {
    // Focus follows the page, as it would with a full load, so that a screen reader starts at its top.
    if (previousPath.current !== path) main.current?.focus({ preventScroll: true });
    previousPath.current = path;
  }, [path]);

  return (
    <>
      <a className={classes.skip} href="#main">
        Skip to the content
      </a>
      <header className={classes.header}>
        <Link to="/runs" className={classes.home} aria-label="foldase, to the runs">
          <Brand />
        </Link>
        <nav aria-label="Main" className={classes.nav}>
          <Link to="/runs" activeOptions={{ exact: false, includeSearch: false }}>
            Runs
          </Link>
          <Link to="/new" activeOptions={{ includeSearch: false }}>
            New run
          </Link>
          <Link to="/cluster">Cluster</Link>
        </nav>
        <div className={classes.tools}>
          <ColorSchemeButton />
          <SignOutButton />
        </div>
      </header>
      <ClusterBanner />
      <main id="main" ref={main} tabIndex={-1} className={classes.main}>
        <Outlet />
      </main>
      <Footer />
    </>
  );
}

function ColorSchemeButton() {
  const { setColorScheme } = useMantineColorScheme();
  const scheme = useComputedColorScheme("light");
  const next = scheme === "dark" ? "light" : "dark";
  const label = `Use ${next} colours`;
  return (
    <ActionIcon
      variant="subtle"
      color="gray"
      size={32}
      aria-label={label}
      title={label}
      onClick={() => setColorScheme(next)}
    >
      {scheme === "dark" ? <SunIcon /> : <MoonIcon />}
    </ActionIcon>
  );
}

function SignOutButton() {
  const client = useQueryClient();
  const session = useQuery(sessionQuery);
  const signOut = useMutation({
    mutationFn: () => unwrap(api.DELETE("/api/v1/session")),
    onSuccess: () => {
      client.setQueryData(keys.session, null);
      client.removeQueries({ predicate: (query) => query.queryKey[0] !== keys.session[0] });
    },
  });
  return (
    <Button
      variant="subtle"
      color="gray"
      size="compact-sm"
      title={session.data ? `Signed in as ${session.data.user.name}` : undefined}
      loading={signOut.isPending}
      onClick={() => signOut.mutate()}
    >
      {signOut.isError ? "Sign out failed, again?" : "Sign out"}
    </Button>
  );
}

function Footer() {
  const health = useQuery(healthQuery);
  return (
    <footer className={classes.footer}>
      foldase {health.data?.version} · <a href="/api/v1/openapi.json">API description</a>
    </footer>
  );
}
