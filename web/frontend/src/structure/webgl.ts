export type WebGl = "none" | "software" | "hardware";

const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render/i;

/** What this browser can draw three dimensions with. */
export function detectWebGl(): WebGl {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("webgl2") ?? canvas.getContext("webgl");
  if (!context) return "none";
  const info = context.getExtension("WEBGL_debug_renderer_info");
  const renderer = String(context.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : context.RENDERER));
  context.getExtension("WEBGL_lose_context")?.loseContext();
  return SOFTWARE.test(renderer) ? "software" : "hardware";
}
