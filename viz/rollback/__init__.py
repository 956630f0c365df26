"""The way a training took, for people: accepted path, discarded attempts, what was changed why.

```
path      TrainingPath: plain data of a training, and what can be read off it
curves    long noisy curves as bands of few points, values that change now and then as stairs
drawing   what the figures share: colours, axes, matplotlib's SVG made fit for a page
panels    the figure over the step: losses, lambdas, learning rates
marks     the rollbacks and the validations in it
saw_tooth the figure of the step over the iteration
page      one HTML page without scripts or external files
```
"""

from viz.rollback.page import path_page
from viz.rollback.path import TrainingPath, Validated, loss_panels

__all__ = ["TrainingPath", "Validated", "loss_panels", "path_page"]
