"""Pictures as part of a page: inline, with a caption and words for those who can't see them."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np

from viz.pictures import Picture

_QUALITY = 88


def address(picture: Picture, *, lossless: bool = False) -> str:
    """A picture (Y, X, 3) as a `data:` address, WebP."""
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.save(buffer, format="WEBP", lossless=lossless, quality=60 if lossless else _QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def figure(source: str, name: str, caption: str) -> str:
    """A picture of central slices at the address `source` below its name and caption."""
    alt = f"Central slices of {name}: {caption}"
    return (
        f"<figure><figcaption><b>{escape(name)}</b><br>{escape(caption)}</figcaption>"
        f'<img alt="{escape(alt)}" src="{source}"></figure>'
    )
