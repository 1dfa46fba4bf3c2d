"""The report as one HTML page: style, sections, method text. Nothing is loaded, nothing runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2430; --muted: #5b6675; --line: #d9dee6;
  --model: #1f6feb; --classical: #8794a6; --low: #c7ced8; --truth: #0f9d76; --soft: #f4f6f9; }
@media (prefers-color-scheme: dark) { :root { --paper: #10151c; --ink: #e6ebf2; --muted: #9aa6b5;
  --line: #2b3440; --model: #5b9dff; --classical: #7d8a9b; --low: #45505e; --truth: #35c79b;
  --soft: #171e27; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
p { max-width: 46rem; } .muted, figcaption, caption { color: var(--muted); }
figure { margin: 0; } figcaption { font-size: .88rem; max-width: 34rem; }
.bars, .maps { display: grid; gap: 1.4rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 29rem), 1fr)); }
.maps { grid-template-columns: repeat(auto-fill, minmax(min(100%, 16.25rem), 1fr)); }
svg { max-width: 100%; height: auto; }
.facts { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.facts div { background: var(--soft); border-radius: .5rem; padding: .6rem .9rem; min-width: 9rem; }
.facts dt { font-size: .84rem; color: var(--muted); }
.facts dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; display: block;
  overflow-x: auto; }
caption { text-align: left; padding-bottom: .3rem; font-size: .88rem; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; }
th[scope=row], thead th:first-child { text-align: left; font-weight: 500; }
text { font: 12px system-ui, sans-serif; fill: var(--ink); } .tick { fill: var(--muted); }
.value { font-variant-numeric: tabular-nums; } .grid { stroke: var(--line); }
.bar.model { fill: var(--model); } .bar.classical { fill: var(--classical); } .bar.low { fill: var(--low); }
.whisker { stroke: var(--ink); fill: none; } .line { stroke: var(--model); fill: none; stroke-width: 2; }
.map { fill: var(--soft); } .mapgrid { stroke: var(--line); stroke-width: 1; fill: none;
  vector-effect: non-scaling-stroke; }
.diagonal { stroke: var(--muted); vector-effect: non-scaling-stroke; }
.truth { fill: var(--truth); } .predicted { fill: var(--model); }
.key::before { content: ""; display: inline-block; width: .8em; height: .8em; margin-right: .35em; }
.key.predicted::before { background: var(--model); } .key.truth::before { background: var(--truth); }
details pre { overflow: auto; background: var(--soft); padding: 1rem; border-radius: .5rem;
  font-size: .8rem; max-height: 30rem; }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } h2 { break-after: avoid; }
  figure, table { break-inside: avoid; } details { display: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it, already HTML."""

    title: str
    body: str


def page(title: str, lead: str, sections: Sequence[Section], numbers: str) -> str:
    """The whole page; ``numbers`` is JSON text shown at the end."""
    body = "".join(
        f"<section><h2>{escape(section.title)}</h2>{section.body}</section>" for section in sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="muted">{escape(lead)}</p>{body}'
        f"<section><h2>All numbers</h2><details><summary>As JSON</summary><pre>{escape(numbers)}</pre>"
        "</details></section></main></body></html>\n"
    )


def paragraphs(*texts: str) -> str:
    """Plain texts as paragraphs."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def figure(picture: str, caption: str) -> str:
    """A picture (HTML) with a caption (plain text)."""
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"
