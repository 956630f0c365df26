"""Trust maps: they show where not to trust an enhanced volume. docs/trust.md explains them."""

from cyclegan.trust.operator import FLIPS, SIGMA, Flip, TrustOperator, trust_geometry

__all__ = ["FLIPS", "SIGMA", "Flip", "TrustOperator", "trust_geometry"]
