"""Tables: aligned columns for a terminal, and Markdown for the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def show(title: str, rows: Sequence[object], name: str, columns: Mapping[str, str]) -> None:
    """Print a title and a line for each row; name and columns are formats ("{0.size:.1f}")."""
    names = [name.format(row) for row in rows]
    width = max(14, *map(len, names))
    print(f"\n{title}\n  {'':{width}}" + "".join(f"{head:>13}" for head in columns))
    for label, row in zip(names, rows, strict=True):
        cells = [cell.format(row) for cell in columns.values()]
        print(f"  {label:{width}}" + "".join(f"{cell:>13}" for cell in cells), flush=True)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]])
