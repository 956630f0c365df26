"""Enhance whole volumes: exact tiles, memory that follows the tile, and resuming after a kill.

```
volumes    arrays and files in, enhanced arrays and files out
settings   tile, region, memory, compression, ... of an enhancement
grid       the windows that are read, and the core of each that goes into the result
tiling     the tile loop, for anything that maps a padded tile to images
network    a network as such an operator: device, precision, compilation
device_errors  memory that ran out, a GPU that is lost
memory     the largest tile that fits into memory
chunks     HDF5 chunks, compressed outside of the HDF5 library
pipeline   reading, computing, compressing and writing at the same time
partial    finished tiles on disk, until all are there
output     layout and attributes of the HDF5 file, and the job that made it
```
"""

from cyclegan.enhance.settings import EnhanceSettings
from cyclegan.enhance.volumes import EnhanceResult, enhance_array, enhance_file, enhance_shard

__all__ = ["EnhanceResult", "EnhanceSettings", "enhance_array", "enhance_file", "enhance_shard"]
