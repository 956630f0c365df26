"""Divide and round up whole numbers, without the detour through floating point."""

from __future__ import annotations


def ceil_div(number: int, divisor: int) -> int:
    """Return `number / divisor`, rounded up: the parts of size `divisor` that `number` fills."""
    return -(-number // divisor)


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is not below `number`."""
    return ceil_div(number, multiple) * multiple
