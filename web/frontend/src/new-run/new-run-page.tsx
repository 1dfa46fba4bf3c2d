import { Tabs } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";
import { useState } from "react";

import { runQuery } from "@/api/queries";
import { LoadingLines } from "@/ui/loading";
import { Page } from "@/ui/page";
import { ProblemAlert } from "@/ui/problem-alert";
import { CatalogTab } from "./catalog-tab";
import { YamlTab } from "./yaml-tab";

const route = getRouteApi("/new");

export function NewRunPage() {
  const { tab, from } = route.useSearch();
  const earlier = useQuery({ ...runQuery(from ?? ""), enabled: from !== undefined });

  if (from !== undefined && !earlier.data) {
    return (
      <Page title="New run" state={earlier.isError ? "error" : "loading"}>
        {earlier.isError ? (
          <ProblemAlert
            title="The earlier run could not be loaded"
            error={earlier.error}
            onRetry={() => void earlier.refetch()}
          />
        ) : (
          <LoadingLines what="the earlier run" />
        )}
      </Page>
    );
  }
  return <NewRunTabs key={from} tab={tab ?? (from ? "yaml" : "catalog")} />;
}

function NewRunTabs({ tab }: { tab: "catalog" | "yaml" }) {
  const { from } = route.useSearch();
  const earlier = useQuery({ ...runQuery(from ?? ""), enabled: from !== undefined });
  const navigate = route.useNavigate();
  // Once opened, the editor stays in the page, so that switching tabs loses neither text nor undo history.
  const [editorOpened, setEditorOpened] = useState(tab === "yaml");

  const choose = (next: string | null) => {
    if (next !== "catalog" && next !== "yaml") return;
    if (next === "yaml") setEditorOpened(true);
    void navigate({ search: (previous) => ({ ...previous, tab: next }), replace: true });
  };

  return (
    <Page title={earlier.data ? `New run, from ${earlier.data.name}` : "New run"}>
      <Tabs value={tab} onChange={choose} keepMounted>
        <Tabs.List mb="md">
          <Tabs.Tab value="catalog">Catalog</Tabs.Tab>
          <Tabs.Tab value="yaml">YAML</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="catalog">
          <CatalogTab />
        </Tabs.Panel>
        <Tabs.Panel value="yaml">
          {(editorOpened || tab === "yaml") && <YamlTab earlier={earlier.data} />}
        </Tabs.Panel>
      </Tabs>
    </Page>
  );
}
