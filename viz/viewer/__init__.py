"""A volume viewer in one HTML file, for MLflow's artifact pane or any browser.

```
layer.py    Layer: a named volume; how grids of layers overlap; layers of a cycle's images and of
            an enhanced volume
fit.py      crop or bin layers that are too large; values -> bytes -> compressed text
page.py     viewer_page, write_viewer: the file

page.html, viewer.css, *.js   the front end, put into every page
```
The front end is our own. NiiVue, a well-maintained viewer that fits into one file, would add 5 MB
to every page, of which a run has several, and it draws only with WebGL 2.
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
