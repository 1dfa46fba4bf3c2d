import { createTheme, type CSSVariablesResolver, type MantineColorsTuple } from "@mantine/core";

const spruce: MantineColorsTuple = [
  "#eef6f3",
  "#dcebe6",
  "#b5d6cb",
  "#8bc0af",
  "#57ab93",
  "#3f957e",
  "#2c7c68",
  "#1b6655",
  "#155345",
  "#0e4135",
];

const brick: MantineColorsTuple = [
  "#fbebe9",
  "#f6d3cf",
  "#ecaaa3",
  "#f2887f",
  "#e0655b",
  "#d2534a",
  "#c4453d",
  "#b3261e",
  "#8f1d17",
  "#6c1510",
];

const paper: MantineColorsTuple = [
  "#fbfaf7",
  "#f4f2ec",
  "#eceae2",
  "#e3e0d8",
  "#cfcbc1",
  "#aaa79e",
  "#737873",
  "#5b625f",
  "#383d3b",
  "#1c1f1e",
];

const night: MantineColorsTuple = [
  "#e6ece9",
  "#c4cfca",
  "#9aa8a3",
  "#7d8c87",
  "#43514d",
  "#2b3633",
  "#1f2926",
  "#18201e",
  "#111615",
  "#0b0f0e",
];

export const theme = createTheme({
  primaryColor: "spruce",
  // White text must stand out from a filled button in both schemes.
  primaryShade: { light: 7, dark: 6 },
  colors: { spruce, red: brick, gray: paper, dark: night },
  white: "#ffffff",
  black: "#1c1f1e",
  fontFamily: '"Inter", system-ui, -apple-system, "Segoe UI", sans-serif',
  fontFamilyMonospace: "var(--mono)",
  fontSizes: { xs: "12px", sm: "13px", md: "14px", lg: "16px", xl: "20px" },
  spacing: { xs: "8px", sm: "12px", md: "16px", lg: "24px", xl: "32px" },
  radius: { xs: "3px", sm: "6px", md: "6px", lg: "6px", xl: "6px" },
  defaultRadius: "sm",
  headings: {
    fontWeight: "600",
    sizes: { h1: { fontSize: "26px" }, h2: { fontSize: "20px" }, h3: { fontSize: "16px" } },
  },
  focusRing: "auto",
  respectReducedMotion: true,
  components: {
    InputWrapper: { styles: { description: { fontSize: "12px" }, error: { fontSize: "12px" } } },
    Switch: { styles: { description: { fontSize: "12px" } } },
    Tabs: { styles: { tab: { fontSize: "14px" } } },
  },
});

/** Mantine's own variables, pointed at ours, so that its parts and ours are drawn from one palette. */
export const resolver: CSSVariablesResolver = () => {
  const shared = {
    "--mantine-color-body": "var(--surface-page)",
    "--mantine-color-text": "var(--text)",
    "--mantine-color-dimmed": "var(--muted)",
    "--mantine-color-placeholder": "var(--muted)",
    "--mantine-color-default": "var(--surface)",
    "--mantine-color-default-border": "var(--line-strong)",
    "--mantine-color-default-hover": "var(--surface-sunken)",
    "--mantine-color-anchor": "var(--accent)",
    "--mantine-color-error": "var(--state-failed)",
  };
  return { variables: {}, light: shared, dark: shared };
};
