"""BM4D in an environment of its own; this script imports no part of this project.

    PYTHON alternatives_bm4d.py FOLDER

FOLDER holds `input.npy` (Z, Y, X) and `request.json`, {"sigmas": [...]}. The script writes `0.npy`,
`1.npy`, ... for the sigmas in turn, and `answer.json` with the seconds of each. `alternatives.py`
calls it. BM4D's licence is not free, so BM4D is no dependency of this project:

    python -m venv bm4d && bm4d/bin/pip install bm4d
    python benchmarks/alternatives.py --bm4d bm4d/bin/python

Source: M. Maggioni, V. Katkovnik, K. Egiazarian, A. Foi, IEEE Trans. Image Process. 22, 119 (2013).
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from bm4d import bm4d


def main() -> None:
    """Filter with each sigma."""
    folder = Path(sys.argv[1])
    image = np.load(folder / "input.npy").astype(np.float64)
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    seconds = []
    for number, sigma in enumerate(request["sigmas"]):
        started = time.process_time()
        filtered = bm4d(image, sigma)
        seconds.append(time.process_time() - started)
        np.save(folder / f"{number}.npy", np.asarray(filtered, np.float32))
    (folder / "answer.json").write_text(json.dumps({"seconds": seconds}), encoding="utf-8")


if __name__ == "__main__":
    main()
