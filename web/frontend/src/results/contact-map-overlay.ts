/** What lies over a map of pairs: lines between chains, the cursor and the selection. */
import type { Selection, Window } from "./contact-map-data";

interface Scene {
  window: Window;
  side: number;
  cursor: { row: number; column: number } | null;
  selection: Selection | null;
  /** Residues before which a line is drawn across. */
  separators: readonly number[];
  dark: boolean;
}

/** Draws over the cells, in units of the page. */
export function drawOverlay(context: CanvasRenderingContext2D, scene: Scene): void {
  const { window, side, cursor, selection, separators, dark } = scene;
  const cellWidth = side / (window.right - window.left);
  const cellHeight = side / (window.bottom - window.top);
  context.clearRect(0, 0, side, side);
  context.fillStyle = dark ? "#f2a35c" : "#b04a00";
  for (const border of separators) {
    if (border > window.top && border < window.bottom)
      context.fillRect(0, (border - window.top) * cellHeight - 0.75, side, 1.5);
    if (border > window.left && border < window.right)
      context.fillRect((border - window.left) * cellWidth - 0.75, 0, 1.5, side);
  }
  if (selection) {
    const x = (selection.columns.from - window.left) * cellWidth;
    const y = (selection.rows.from - window.top) * cellHeight;
    const width = Math.max(4, (selection.columns.to - selection.columns.from + 1) * cellWidth);
    const height = Math.max(4, (selection.rows.to - selection.rows.from + 1) * cellHeight);
    context.fillStyle = "rgba(42, 102, 207, 0.14)";
    context.fillRect(x, y, width, height);
    outline(context, x, y, width, height, dark ? "#82aef7" : "#2a66cf");
  }
  if (cursor) {
    const x = (cursor.column - window.left) * cellWidth;
    const y = (cursor.row - window.top) * cellHeight;
    context.fillStyle = dark ? "rgba(230, 236, 233, 0.12)" : "rgba(28, 31, 30, 0.07)";
    context.fillRect(0, y, side, Math.max(1, cellHeight));
    context.fillRect(x, 0, Math.max(1, cellWidth), side);
    outline(context, x, y, Math.max(5, cellWidth), Math.max(5, cellHeight), dark ? "#e6ece9" : "#1c1f1e");
  }
}

function outline(
  context: CanvasRenderingContext2D,
  x: number,
  y: number,
  width: number,
  height: number,
  colour: string,
): void {
  context.strokeStyle = colour;
  context.lineWidth = 1.5;
  context.strokeRect(x + 0.75, y + 0.75, width - 1.5, height - 1.5);
}
