"""Plain text tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, words: Collection[str] = ()
) -> str:
    """Columns of text, aligned to the right but for those whose header is among `words`."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    lines = []
    for line in (header, *rows):
        cells = [
            cell.ljust(width) if name in words else cell.rjust(width)
            for name, cell, width in zip(header, line, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
