"""Tables of figures as the documentation includes them."""

from collections.abc import Sequence


def list_table(rows: Sequence[Sequence[str]], *, widths: str = "", header_rows: int = 1) -> str:
    """Return rows of cells, the headers first, as a reStructuredText table."""
    lines = [".. list-table::", f"   :header-rows: {header_rows}"]
    lines += [f"   :widths: {widths}", ""] if widths else [""]
    for row in rows:
        lines += [f"   {'*' if i == 0 else ' '} - {cell}".rstrip() for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"
