/** Hands a text to the browser as a file to keep. */
export function downloadText(name: string, parts: BlobPart[], type = "text/plain"): void {
  const address = URL.createObjectURL(new Blob(parts, { type: `${type};charset=utf-8` }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
