"""The simulator: a numerical microCT scanner, a phantom, and both domains of a training from them.

`simulate` writes a complete pair of domains; `scan` scans any attenuation map, which
`fibre_composite` and `real_attenuation` provide.
"""

from cyclegan.simulate.domains import SimulatedDomains, simulate
from cyclegan.simulate.phantom import fibre_composite
from cyclegan.simulate.real import real_attenuation
from cyclegan.simulate.scanner import FAST, SLOW, ScanSettings, scan

__all__ = [
    "FAST",
    "SLOW",
    "ScanSettings",
    "SimulatedDomains",
    "fibre_composite",
    "real_attenuation",
    "scan",
    "simulate",
]
