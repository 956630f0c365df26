"""Our HTML pages: templates that escape every text, one stylesheet, and inline pictures.

Templates are Jinja2's. `viz/templates` has what all pages share: `page.html`, the frame that a page
extends; `parts.html`, macros for tables, notes and figures; and `style.css`. A page's own templates
lie beside the code that fills them. Text is escaped wherever a template shows it; only `Markup` is
not, which `render` and `drawn` return.
"""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from viz.palette import RUNS, STATES, page_colour, shade_variables, state_variables
from viz.pictures import Picture
from viz.plots import inline_svg

TEMPLATES = Path(__file__).parent / "templates"
_QUALITY = 88


def render(name: str, folder: Path, **values: object) -> Markup:
    """Return the template `name` of `folder`, or of those that all pages share, filled in.

    A value that the template wants and that is missing is an error (`jinja2.UndefinedError`).
    """
    filled = _environment(folder).get_template(name).render(**values)
    return Markup(filled)  # noqa: S704  (the template has escaped every value)


def macro(name: str, template: str, folder: Path, *values: object) -> Markup:
    """Return what a macro of a template makes of values."""
    made = getattr(_environment(folder).get_template(template).module, name)(*values)
    return Markup(made)  # noqa: S704  (the macro has escaped every value)


@lru_cache(maxsize=16)
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name, dark in (("light", False), ("dark", True)):
        environment.globals[name] = f"{state_variables(dark=dark)} {shade_variables(dark=dark)}"
    environment.globals["states"] = tuple(STATES)
    environment.globals["runs"] = tuple(
        (number, page_colour(shade.light)) for number, shade in enumerate(RUNS, start=1)
    )
    return environment


def drawn(figure: Figure, salt: str) -> Markup:
    """Return a figure for a page, in the page's colours; `salt` is its own name in the page."""
    layout = figure.get_layout_engine()
    if layout is not None:  # else matplotlib draws the figure twice, the first time for its layout
        layout.execute(figure)
        figure.set_layout_engine(None)
    return Markup(inline_svg(figure, salt))  # noqa: S704  (matplotlib escapes all texts)


def address(picture: Picture, *, lossless: bool = False) -> str:
    """Return a picture (Y, X, 3) as a `data:` address in WebP."""
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.save(buffer, format="WEBP", lossless=lossless, quality=60 if lossless else _QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
