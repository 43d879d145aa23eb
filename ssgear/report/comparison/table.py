"""The table of a comparison: figures of each run, and which differences are real; CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ssgear.report import pictures
from ssgear.report.comparison.runs import ComparedRun, Figure

LEVEL = 0.05
"""A difference is real where its p-value, corrected for several runs, is below this."""
NOT_SHARES = ("rank", "fid", "kid", "frechet", "density", "alignment", "uniformity", "opd", "_s")
"""Parts of the names of figures that are no shares."""
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a run differs from the first on the same test images."""

    value: float
    """Its figure less that of the first."""
    interval: tuple[float, float]
    """95 % confidence interval, not corrected."""
    p_value: float
    p_holm: float
    """Corrected for the number of runs (Holm 1979)."""
    test: str
    """`McNemar` or `bootstrap`."""

    @property
    def is_real(self) -> bool:
        """Whether chance is no explanation."""
        return self.p_holm < LEVEL


@dataclass(frozen=True, kw_only=True)
class Row:
    """A figure of every run."""

    name: str
    figures: tuple[Figure | None, ...]
    differences: tuple[Difference | None, ...]
    """To the first run; None for itself and where nothing is known by image."""

    @property
    def is_share(self) -> bool:
        """Whether it is written in percent."""
        known = [figure.value for figure in self.figures if figure is not None]
        bare = self.name.rpartition(": ")[2]
        return not any(part in bare for part in NOT_SHARES) and all(0 <= v <= 1 for v in known)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting that differs."""

    name: str
    values: tuple[str, ...]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many there are, by Holm's step-down procedure (1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def settings(runs: Sequence[ComparedRun]) -> list[Setting]:
    """Return the settings in which runs differ, but for where they write."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    rows = [
        Setting(name=name, values=tuple(run.settings.get(name, "") for run in runs))
        for name in names
        if name != "output"
    ]
    return [row for row in rows if len(set(row.values)) > 1]


def rows(
    runs: Sequence[ComparedRun],
    differences: Mapping[str, Sequence[Difference | None]],
    names: Sequence[str] = (),
) -> list[Row]:
    """Return the figures of runs, all or those of `names`."""
    known = dict.fromkeys(name for run in runs for name in run.figures)
    return [
        Row(
            name=name,
            figures=tuple(run.figures.get(name) for run in runs),
            differences=tuple(differences.get(name, [None] * len(runs))),
        )
        for name in (names or known)
    ]


def value_text(row: Row, value: float) -> str:
    """Write a value of a figure: shares in percent."""
    return f"{100 * value:.2f} %" if row.is_share else f"{value:.4g}"


def span_text(row: Row, interval: tuple[float, float]) -> str:
    """Write an interval of a figure."""
    scale = 100 if row.is_share else 1
    return " to ".join(f"{scale * end:.2f}" if row.is_share else f"{end:.4g}" for end in interval)


def difference_text(row: Row, difference: Difference) -> str:
    """Write a difference: points of percent for shares."""
    points = f"{100 * difference.value:+.2f} points" if row.is_share else f"{difference.value:+.4g}"
    return points.replace("-", "−")


def p_text(difference: Difference) -> str:
    """Write the corrected p-value."""
    return pictures.p_text(difference.p_holm)


def to_csv(table: Sequence[Row], runs: Sequence[ComparedRun]) -> str:
    """Return the table as CSV: a line for each figure of each run, numbers as they are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["figure", "run", "value", "low", "high", "num_train", "num_test", "difference",
         "difference_low", "difference_high", "p_value", "p_holm", "test"]
    )  # fmt: skip
    for row in table:
        for run, figure, difference in zip(runs, row.figures, row.differences, strict=True):
            if figure is None:
                continue
            known = ["", "", "", "", "", ""]
            if difference is not None:
                known = [
                    repr(difference.value), *map(repr, difference.interval),
                    repr(difference.p_value), repr(difference.p_holm), difference.test,
                ]  # fmt: skip
            low, high = figure.interval or ("", "")
            counts = ["" if n is None else n for n in (figure.num_train, figure.num_test)]
            writer.writerow([row.name, run.name, repr(figure.value), low, high, *counts, *known])
    return text.getvalue()


def latex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def to_latex(table: Sequence[Row], runs: Sequence[ComparedRun]) -> str:
    """Return the table as LaTeX (package booktabs); a star marks a real difference to the first."""
    lines = [
        f"\\begin{{tabular}}{{l{'r' * len(runs)}}}",
        "\\toprule",
        " & ".join(["figure", *(latex(run.name) for run in runs)]) + " \\\\",
        "\\midrule",
    ]
    for row in table:
        cells = [
            _latex_cell(row, figure, difference)
            for figure, difference in zip(row.figures, row.differences, strict=True)
        ]
        lines.append(" & ".join([latex(row.name), *cells]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _latex_cell(row: Row, figure: Figure | None, difference: Difference | None) -> str:
    if figure is None:
        return "--"
    star = "$^{*}$" if difference is not None and difference.is_real else ""
    cell = latex(value_text(row, figure.value)) + star
    if figure.interval is not None:
        cell += f" {{\\scriptsize ({latex(span_text(row, figure.interval))})}}"
    return cell
