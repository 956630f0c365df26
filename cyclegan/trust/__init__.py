"""Trust maps: where an enhanced volume should not be believed. What they mean: docs/trust.md."""

from cyclegan.trust.operator import FLIPS, SIGMA, Flip, TrustOperator, trust_geometry

__all__ = ["FLIPS", "SIGMA", "Flip", "TrustOperator", "trust_geometry"]
