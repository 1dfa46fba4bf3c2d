import "@/app/mantine-styles";
import "@/styles/fonts.css";
import "@/styles/tokens.css";
import "@/styles/base.css";

import { MantineProvider } from "@mantine/core";
import { QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { createQueryClient } from "@/app/query-client";
import { router } from "@/app/router";
import { resolver, theme } from "@/app/theme";
import { takeCode } from "@/sign-in/one-time-code";
import { SessionGate } from "@/sign-in/session-gate";

const code = takeCode();
const client = createQueryClient();
const container = document.getElementById("root");
if (!container) throw new Error("the page has no #root");

createRoot(container).render(
  <StrictMode>
    <MantineProvider theme={theme} cssVariablesResolver={resolver} defaultColorScheme="auto">
      <QueryClientProvider client={client}>
        <SessionGate firstCode={code}>
          <RouterProvider router={router} />
        </SessionGate>
      </QueryClientProvider>
    </MantineProvider>
  </StrictMode>,
);
