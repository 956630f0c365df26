"""Shared parts of our HTML pages: the document, tables, style and inline pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from viz.palette import state_variables
from viz.pictures import Picture


def document(title: str, style: str, parts: Iterable[str], script: str = "") -> str:
    """Return a whole page. `title` is escaped; `parts` are HTML, and empty ones are left out.

    It loads nothing from elsewhere, so it works in MLflow's sandbox and from a disk.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + (f"\n<script>{script}</script>" if script else "")
        + "\n</body></html>\n"
    )


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML; names and cells are HTML already."""
    top = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


# -- Colours and layout of all pages with tables, drawings and slices --------------------------

BASE = (
    """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5b6068; --paper: #fff; --line: #ddd;
  --card: #f5f6f8; --rim: #f2f2f2; --link: #0b5cad; --best: #111; --warm: #9a5b00;
  """
    + state_variables(dark=False)
    + """ }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #a4abb5; --paper: #16191d;
  --line: #363b42; --card: #20242a; --rim: #1e2227; --link: #7db8ff; --best: #fff; --warm: #f0b95b;
  """
    + state_variables(dark=True)
    + """ } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1240px; margin: 1.2em auto; padding: 0 1.2em; }
h1 { font-size: 1.45em; margin: 0 0 .1em; overflow-wrap: anywhere; }
h2 { font-size: 1.12em; margin: 1.8em 0 .35em; }
p.note { color: var(--soft); font-size: .9em; margin: .3em 0; }
.wide { overflow-x: auto; } .wide > svg { width: 100%; min-width: 760px; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: .32em .85em .32em 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
thead th { position: sticky; top: 0; background: var(--paper); }
td.number { text-align: right; white-space: nowrap; } td.score { font-weight: 600; }
a { color: var(--link); } code { color: var(--soft); user-select: all; }
svg { display: block; height: auto; font: 12px system-ui, sans-serif; }
svg.key { display: inline-block; width: 1em; height: 1em; vertical-align: -.15em;
  margin-right: .2em; }
svg text { fill: var(--ink); } svg .tick { font-size: 11px; fill: var(--soft); }
svg .middle { text-anchor: middle; } svg .end { text-anchor: end; }
svg .axis { stroke: var(--soft); } svg .grid { stroke: var(--line); stroke-width: .7; }
svg .name { font-size: 11px; font-weight: 600; }
.line { fill: none; stroke-width: 1.3; opacity: .85; stroke-linejoin: round; }
.hit { fill: none; stroke: transparent; stroke-width: 9; }
.line, .cross { stroke: var(--c, var(--waiting)); } .mark, .bar { fill: var(--c, var(--waiting)); }
.cross { fill: none; stroke-width: 1.8; }
.curve.on .line, .curve:hover .line { stroke-width: 3.4; opacity: 1; }
.many { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: .6em; }
.caution { color: var(--warm); }
.slices { display: flex; gap: .7em; overflow-x: auto; align-items: flex-end; }
figure { margin: 0; } figcaption { font-size: .85em; margin-bottom: .25em; }
.slices figure { flex: 1 1 0; min-width: 132px; max-width: 230px; }
.slices img { width: 100%; display: block; }
.whole { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1em; }
.whole img { width: 100%; background: #fff; } summary { cursor: pointer; margin: .8em 0; }
"""
)


# -- Inline pictures with a caption and a description ------------------------------------------

_QUALITY = 88


def address(picture: Picture, *, lossless: bool = False) -> str:
    """Return a picture (Y, X, 3) as a `data:` address in WebP."""
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.save(buffer, format="WEBP", lossless=lossless, quality=60 if lossless else _QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def figure(source: str, name: str, caption: str) -> str:
    """Return the picture of central slices at `source`, below its name and caption."""
    alt = f"Central slices of {name}: {caption}"
    return (
        f"<figure><figcaption><b>{escape(name)}</b><br>{escape(caption)}</figcaption>"
        f'<img alt="{escape(alt)}" src="{source}"></figure>'
    )
