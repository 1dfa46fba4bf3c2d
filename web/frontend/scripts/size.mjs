// Compares what each page loads, compressed, with its budget. Run after `npm run build`.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const KB = 1000;
const out =
  process.env.FOLDASE_FRONTEND_OUT ?? fileURLToPath(new URL("../../foldase_web/static", import.meta.url));
const manifest = JSON.parse(readFileSync(`${out}/.vite/manifest.json`, "utf8"));
const sizes = new Map();

function gzipped(file) {
  if (!sizes.has(file)) sizes.set(file, gzipSync(readFileSync(`${out}/${file}`), { level: 9 }).length);
  return sizes.get(file);
}

/** All files that loading these modules brings with it. */
function files(...modules) {
  const found = new Set();
  const seen = new Set();
  const visit = (name) => {
    if (seen.has(name)) return;
    seen.add(name);
    const entry = manifest[name];
    if (!entry) throw new Error(`the build has no ${name}`);
    found.add(entry.file);
    for (const sheet of entry.css ?? []) found.add(sheet);
    for (const imported of entry.imports ?? []) visit(imported);
  };
  modules.forEach(visit);
  return found;
}

const first = files("index.html", "src/runs/runs-page.tsx");
const sum = (list) => list.reduce((total, file) => total + gzipped(file), 0);
const page = (...modules) => sum([...files("index.html", ...modules)]);
const scripts = (list) => [...list].filter((file) => file.endsWith(".js"));
const everything = Object.values(manifest).flatMap((entry) => [entry.file, ...(entry.css ?? [])]);
const drawn = [...new Set(everything)].filter((file) => /\.(js|css)$/.test(file));

const rows = [
  ["first load, scripts", sum(scripts(first)), 180],
  ["first load, styles", sum([...first].filter((file) => file.endsWith(".css"))), 25],
  ["new run, in all", page("src/new-run/new-run-page.tsx", "src/editor/yaml-editor.tsx"), 400],
  ["run, in all", page("src/run/run-page.tsx", "src/run/step-graph.tsx", "src/run/line-chart.tsx"), 300],
  ["results, in all", page("src/results/results-page.tsx", "src/structure/mol-viewer.ts"), 1000],
  ["all but the structure viewer", sum(drawn.filter((file) => !file.includes("mol-viewer"))), 550],
];

let over = false;
for (const [name, bytes, budget] of rows) {
  const kept = bytes <= budget * KB;
  over ||= !kept;
  console.log(
    `${kept ? "ok  " : "OVER"} ${name.padEnd(30)} ${(bytes / KB).toFixed(1).padStart(7)} kB of ${budget}`,
  );
}
process.exitCode = over ? 1 : 0;
