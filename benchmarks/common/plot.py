"""The plot of NT-Xent's time and memory over the number of rows, for the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.timing import Row

COLOURS = {
    "triton": "#0b6e4f",
    "cpp": "#0b6e4f",
    "streaming": "#5fad56",
    "eager": "#b23a48",
    "torch.compile": "#e08e45",
    "lightly": "#6a4c93",
}


def plot_nt_xent(rows: Sequence[Row], about: Mapping[str, Any], file: Path) -> None:
    """Draw forward + backward time, and peak memory, of every contender in the first type.

    Both axes are logarithmic. Sizes that a contender has no room for have no point.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    first = next(row for row in rows if row.kernel == "nt_xent")
    width = first.size.split()[1]
    shown = [
        row
        for row in rows
        if (row.kernel, row.dtype) == ("nt_xent", first.dtype) and row.size.split()[1] == width
    ]
    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name in dict.fromkeys(row.contender for row in shown):
        mine = [row for row in shown if row.contender == name]
        sizes = [int(row.size.split()[0].removeprefix("2N=")) for row in mine]
        style = {"color": COLOURS.get(name, "#444444"), "marker": "o", "markersize": 4}
        time.plot(sizes, [row.timing.both_ms for row in mine], label=name, **style)
        memory.plot(sizes, [max(row.timing.peak_mb, 1) for row in mine], label=name, **style)
    sizes = sorted({int(row.size.split()[0].removeprefix("2N=")) for row in shown})
    limits = [next(r.limit_ms for r in shown if f"2N={size} " in r.size) for size in sizes]
    time.plot(sizes, limits, color="#999999", linestyle=":", label="limit of this machine")
    for axes, label in ((time, "forward + backward, ms"), (memory, "peak above inputs, MB")):
        axes.set(xscale="log", yscale="log", xlabel="rows 2N", ylabel=label)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    time.legend(frameon=False, fontsize=8)
    where = f"{about['device']}, {about['threads']} threads" if "threads" in about else ""
    figure.suptitle(f"NT-Xent, {width}, {first.dtype}: {where}, {about['date']}", fontsize=9)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
