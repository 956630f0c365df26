"""A trained generator as one file that needs nothing of this project: only PyTorch.

```
exporting   generator.pt in, FILE.pt2 out: the network as torch.export sees it
about       what the file says of itself: sizes, halo, grey scales, configuration
recipe      how to use the file: a script of its own, which travels inside the file
```
"""

from cyclegan.portable.exporting import Exported, export_generator

__all__ = ["Exported", "export_generator"]
