"""A volume viewer in one HTML file, for MLflow's artifact pane or any browser.

```
layer.py    Layer: a named volume, and how the grids of layers lie on each other
codes.py    values -> bytes -> compressed text
fit.py      crop or bin what is too large
page.py     viewer_page, write_viewer: the file
readers.py  layers of a cycle's images and of an enhanced volume

page.html, viewer.css, *.js   the front end, put into every page
```
The front end is our own. NiiVue, the well-kept viewer that fits into one file, would add 5 MB to
every page, of which a run keeps several, and draws with WebGL 2 only.
"""

from __future__ import annotations

from viz.viewer.layer import Layer, cycle_layers, enhanced_layers
from viz.viewer.page import LIMIT, PAIRS, viewer_page, write_viewer

__all__ = [
    "LIMIT",
    "PAIRS",
    "Layer",
    "cycle_layers",
    "enhanced_layers",
    "viewer_page",
    "write_viewer",
]
