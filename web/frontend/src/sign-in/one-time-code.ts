interface Place {
  pathname: string;
  search: string;
  hash: string;
}

/**
 * The one-time code of a sign-in link, and the address without it.
 *
 * The code may stand in the query or behind `#`. The clean address replaces the old one before anything else
 * happens, so that a code lands neither in the history nor in a bookmark.
 */
export function splitCode(place: Place): { code: string | null; address: string } {
  const query = new URLSearchParams(place.search);
  const fragment = new URLSearchParams(place.hash.replace(/^#/, ""));
  const code = query.get("code") ?? fragment.get("code");
  query.delete("code");
  fragment.delete("code");
  const search = query.size > 0 ? `?${query}` : "";
  const hash = code !== null ? (fragment.size > 0 ? `#${fragment}` : "") : place.hash;
  return { code: code || null, address: place.pathname + search + hash };
}

/** Takes the code out of the browser's address. */
export function takeCode(): string | null {
  const { code, address } = splitCode(window.location);
  if (code !== null) window.history.replaceState(null, "", address);
  return code;
}
