import {
  createRootRoute,
  createRoute,
  createRouter,
  lazyRouteComponent,
  redirect,
} from "@tanstack/react-router";

import { runsSearch } from "@/runs/search";
import { newRunSearch } from "@/new-run/search";
import { resultsSearch } from "@/results/search";
import { runSearch } from "@/run/search";
import { NotFoundPage } from "./not-found";
import { PageError } from "./page-error";
import { Shell } from "./shell";

const root = createRootRoute({
  component: Shell,
  notFoundComponent: NotFoundPage,
  errorComponent: PageError,
});

const toRuns = () => {
  throw redirect({ to: "/runs", search: {} });
};

const home = createRoute({ getParentRoute: () => root, path: "/", beforeLoad: toRuns });
const signIn = createRoute({ getParentRoute: () => root, path: "/sign-in", beforeLoad: toRuns });

const runs = createRoute({
  getParentRoute: () => root,
  path: "/runs",
  validateSearch: runsSearch,
  component: lazyRouteComponent(() => import("@/runs/runs-page"), "RunsPage"),
});

const newRun = createRoute({
  getParentRoute: () => root,
  path: "/new",
  validateSearch: newRunSearch,
  component: lazyRouteComponent(() => import("@/new-run/new-run-page"), "NewRunPage"),
});

const run = createRoute({
  getParentRoute: () => root,
  path: "/runs/$id",
  validateSearch: runSearch,
  component: lazyRouteComponent(() => import("@/run/run-page"), "RunPage"),
});

const results = createRoute({
  getParentRoute: () => root,
  path: "/runs/$id/results",
  validateSearch: resultsSearch,
  component: lazyRouteComponent(() => import("@/results/results-page"), "ResultsPage"),
});

const cluster = createRoute({
  getParentRoute: () => root,
  path: "/cluster",
  component: lazyRouteComponent(() => import("@/cluster/cluster-page"), "ClusterPage"),
});

export const router = createRouter({
  routeTree: root.addChildren([home, signIn, runs, newRun, run, results, cluster]),
  defaultPreload: "intent",
  defaultErrorComponent: PageError,
  scrollRestoration: true,
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
