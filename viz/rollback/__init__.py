"""The page on a training's rollbacks: accepted path, discarded attempts, changes with reasons.

```
path      TrainingPath: plain data of a training, and values derived from it
drawing   shared parts of the figures: colours, axes, curves of few points
panels    the figure over the step (rollbacks, validations, losses, lambdas, learning rates),
          and the figure of the step over the iteration
page      one HTML page (template rollbacks.html) without scripts or external files
```
"""

from viz.rollback.page import path_page
from viz.rollback.path import TrainingPath, ValidationScore, loss_panels

__all__ = ["TrainingPath", "ValidationScore", "loss_panels", "path_page"]
