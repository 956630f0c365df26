"""The objective of a hyperparameter study where no ground truth exists; higher is better.

```
held-out patches of A --G_A--> fake_B ---> gates: finite? alive? contrast upright?
                                      \\--> texture: spectrum and cubes, against real B's
held-out patches of B --degrade--> pseudo_A --G_A--> restored
                                      \\--> pairs: gain over the best Gaussian
                                      \\--> shells: correlation with the truth; real A against pseudo A
half scans of A, if there are any --G_A--> halves: each against the other
value = gain_db - SPECTRUM_WEIGHT * spectrum_distance_db
```
"""

from cyclegan.score.gates import (
    MAX_VOXEL,
    MIN_CONTRAST,
    MIN_CORRELATION,
    MIN_VARIETY,
    collapsed,
    inverted,
    non_finite,
)
from cyclegan.score.objective import GATED, SPECTRUM_WEIGHT, Score, ScoreReport, value_of
from cyclegan.score.running import Generator

__all__ = [
    "GATED",
    "MAX_VOXEL",
    "MIN_CONTRAST",
    "MIN_CORRELATION",
    "MIN_VARIETY",
    "SPECTRUM_WEIGHT",
    "Generator",
    "Score",
    "ScoreReport",
    "collapsed",
    "inverted",
    "non_finite",
    "value_of",
]
