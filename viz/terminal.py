"""What standard output can show."""

from __future__ import annotations

import shutil
from typing import TextIO

_NARROWEST = 72


def can_draw_blocks(stream: TextIO) -> bool:
    """Whether the stream's encoding has the block characters."""
    try:
        "▁█".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def line_width(stream: TextIO) -> int | None:
    """Characters of a line on a terminal; None for a file or a pipe, where lines may be long."""
    if not stream.isatty():
        return None
    return max(_NARROWEST, shutil.get_terminal_size().columns)
