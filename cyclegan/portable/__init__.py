"""A trained generator as one file that needs only PyTorch, and nothing of this project.

```
exporting   generator.pt in, FILE.pt2 out: the network as torch.export sees it, and its description
            (sizes, halo, grey scales, configuration)
recipe      a script of its own that applies the file to a volume; it travels inside the file
```
"""

from cyclegan.portable.exporting import ExportResult, export_generator

__all__ = ["ExportResult", "export_generator"]
