"""What our HTML pages have in common: one self-contained document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def document(title: str, style: str, parts: Iterable[str], script: str = "") -> str:
    """A whole page. `title` is escaped; `parts` are HTML already, empty ones are left out.

    Nothing is loaded from elsewhere: such a page works in MLflow's sandbox and from a disk.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + (f"\n<script>{script}</script>" if script else "")
        + "\n</body></html>\n"
    )


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in markup, of names and cells that are markup."""
    top = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )
