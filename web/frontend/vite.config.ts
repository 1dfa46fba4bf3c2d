import react from "@vitejs/plugin-react";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const api = process.env.FOLDASE_URL ?? "http://127.0.0.1:8420";

// The server refuses changes that another origin asks for, and to it the development server is one.
const backend = { target: api, changeOrigin: true, headers: { Origin: api } };

export default defineConfig({
  plugins: [react()],
  resolve: { alias: { "@": fileURLToPath(new URL("./src", import.meta.url)) } },
  build: {
    outDir:
      process.env.FOLDASE_FRONTEND_OUT ?? fileURLToPath(new URL("../foldase_web/static", import.meta.url)),
    emptyOutDir: true,
    manifest: true,
    target: "es2022",
    // The page's Content-Security-Policy forbids inline scripts and allows data: for images only.
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 3000,
  },
  server: { proxy: { "/api": backend, "/ray": backend } },
});
