"""Enhancing whole volumes: exact tiles, memory that follows the tile, and going on after a kill.

```
volumes    arrays and files in, enhanced arrays and files out
grid       which windows are read and which cores are kept
tiling     the tile loop, for anything that maps a padded tile to images
network    a network as such an operator: device, precision, compilation
job        what makes an output, so that only the same is gone on with
memory     how large a tile may be
source     slabs of input, frames of a series
store      finished tiles on the disk, until all are there
output     what the HDF5 file says about itself
```
"""

from cyclegan.enhance.volumes import Enhanced, enhance_array, enhance_file

__all__ = ["Enhanced", "enhance_array", "enhance_file"]
