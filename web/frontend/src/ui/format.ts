/** How numbers, sizes and times are written, everywhere the same. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** `1.4 GiB`: binary units, two or three digits. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** `850 ms`, `12 s`, `4 min 05 s`, `2 h 10 min`, `3 d 4 h`. */
export function formatDuration(seconds: number): string {
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.floor(seconds)} s`;
  const whole = Math.floor(seconds);
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, "0")} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** A rough duration for estimates: no more digits than the estimate deserves. */
export function formatEstimate(seconds: number): string {
  if (seconds < 1) return "under 1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** `3 to 7 min`, with the unit once where both ends have the same. */
export function formatRange(low: number, high: number): string {
  const from = formatEstimate(low);
  const to = formatEstimate(high);
  if (from === to) return to.startsWith("under") ? to : `about ${to}`;
  const [fromNumber, fromUnit] = from.split(" ");
  const sameUnit = fromUnit !== undefined && fromUnit === to.split(" ")[1] && !from.startsWith("under");
  return `${sameUnit ? fromNumber : from} to ${to}`;
}

/** Numbers for tables and tooltips: at most `digits` significant ones, no exponent where it can be avoided. */
export function formatNumber(value: number, digits = 4): string {
  if (!Number.isFinite(value)) return String(value);
  if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e7)) return value.toExponential(2);
  return String(Number(value.toPrecision(digits)));
}

/** A number that a step reported: one of bytes by its name in binary units. */
export function formatMetric(name: string, value: number, digits?: number): string {
  return isBytes(name) && Number.isFinite(value) ? formatBytes(value) : formatNumber(value, digits);
}

/** Whether a number that a step reported counts bytes. */
export function isBytes(name: string): boolean {
  return name.endsWith("_bytes") || name.endsWith("_bytes_total");
}

/** Any JSON value on one line. */
export function formatValue(value: unknown): string {
  if (typeof value === "string") return value;
  if (typeof value === "number") return formatNumber(value, 8);
  return JSON.stringify(value) ?? "not set";
}

/** Seconds between two RFC 3339 times; until now where the second is missing. */
export function secondsBetween(start: string, end: string | null | undefined, now: number): number {
  return Math.max(0, ((end ? Date.parse(end) : now) - Date.parse(start)) / 1000);
}

const AGES: [limit: number, size: number, unit: Intl.RelativeTimeFormatUnit][] = [
  [60, 1, "second"],
  [3600, 60, "minute"],
  [86_400, 3600, "hour"],
  [7 * 86_400, 86_400, "day"],
];

/** `5 minutes ago`; the date for what is older than a week. */
export function formatAge(time: string, now: number): string {
  const seconds = (now - Date.parse(time)) / 1000;
  if (seconds < 5) return "just now";
  for (const [limit, size, unit] of AGES) {
    if (seconds < limit) return new Intl.RelativeTimeFormat("en").format(-Math.floor(seconds / size), unit);
  }
  return new Date(time).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
}

/** `sha256:3f2a…` shortened for people; the whole digest belongs in a tooltip or a copy button. */
export function shortDigest(digest: string): string {
  return digest.replace(/^sha256:/, "").slice(0, 12);
}
