import type { ErrorComponentProps } from "@tanstack/react-router";

import { Page } from "@/ui/page";
import { ProblemAlert } from "@/ui/problem-alert";

/** What stands where a page broke while it was drawn. */
export function PageError({ error }: ErrorComponentProps) {
  return (
    <Page title="The page broke" state="error">
      <ProblemAlert
        title="This page could not be drawn"
        error={error}
        onRetry={() => window.location.reload()}
      />
    </Page>
  );
}
