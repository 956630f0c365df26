"""The objective of a hyperparameter study where no ground truth exists; higher is better.

```
held-out patches of A --G_A--> fake_B ----> gates: finite? alive? contrast upright?
                                       |--> texture: spectrum and cubes, against real B's
                                       \\--> checkerboard: amplitude, beyond real B's
held-out patches of B --degrade--> pseudo_A --G_A--> restored
                                       \\--> pairs: gain over the best Gaussian filter
                                       \\--> shells: correlation with the truth, per frequency
value = gain - 0.25 spectrum distance - 5 sliced Wasserstein distance + 20 shell gain
        - 40 checkerboard
logged beside it: shell gap (does real A behave like pseudo A?), the gain across half scans of A if
there are any, and the cycle through G_B, which reveals hidden noise
```

No part is enough alone. The gain rewards each correct voxel, and a blur that smears everything
uncertain is nearly correct everywhere. Invented texture looks as good as true texture. The shells
ignore noise that is passed on, because a filter does not change them. A faint checkerboard, which
the eye finds at once, has too little energy for all of these.

The score can't see faults that neither `cyclegan.score.degrade` nor `residual_noise` describes,
unless there are half scans, nor noise in B itself, which limits the gain of all generators alike.
"""

from cyclegan.score.objective import (
    CHECKERBOARD_WEIGHT,
    GATED,
    MAX_VOXEL,
    MIN_CONTRAST,
    MIN_CORRELATION,
    MIN_VARIETY,
    SHELL_WEIGHT,
    SPECTRUM_WEIGHT,
    WASSERSTEIN_WEIGHT,
    Score,
    ScoreReport,
    collapsed,
    inverted,
    non_finite,
    value_of,
)
from cyclegan.score.parts import Generator

__all__ = [
    "CHECKERBOARD_WEIGHT",
    "GATED",
    "MAX_VOXEL",
    "MIN_CONTRAST",
    "MIN_CORRELATION",
    "MIN_VARIETY",
    "SHELL_WEIGHT",
    "SPECTRUM_WEIGHT",
    "WASSERSTEIN_WEIGHT",
    "Generator",
    "Score",
    "ScoreReport",
    "collapsed",
    "inverted",
    "non_finite",
    "value_of",
]
