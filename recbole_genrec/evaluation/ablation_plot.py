"""The plot of an ablation's table: the same table gives the same SVG, byte for byte."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recbole_genrec.evaluation.ablation import Row, Table

#: Colours that the colour-blind tell apart (Okabe and Ito); shapes and labels say the same without colour.
_BLUE, _SKY, _VERMILION, _GREY = "#0072B2", "#56B4E9", "#D55E00", "#595959"
_SEEDS = {"linestyle": "", "marker": "o", "markersize": 4, "color": _SKY, "markeredgecolor": _GREY,
          "markeredgewidth": 0.6, "zorder": 4}
_METRIC = "ndcg@10"


def plot(table: Table) -> str:
    """ndcg@10 of every variant as SVG: seeds as small points, mean and standard deviation, the reference as a line.

    A sweep (the ablation has an ``x``) is drawn over its values, any other ablation as one line a variant.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not the user's style
        matplotlib.rcParams.update({"svg.hashsalt": "recbole_genrec", "svg.fonttype": "none", "font.size": 10,
                                    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
                                    "axes.grid": True, "grid.color": "#DDDDDD"})
        figure = Figure(layout="constrained")
        axes = figure.add_subplot()
        (_sweep if table.ablation.x else _dots)(figure, axes, table)
        figure.suptitle(table.title)
        figure.supxlabel(_key(table), fontsize=8)
        target = io.BytesIO()
        figure.savefig(target, format="svg", metadata={
            "Date": None, "Title": table.title, "Description": f"{table.ablation.description} {table.notes()[0]}"})
    return target.getvalue().decode("utf-8")


def _dots(figure, axes, table: Table) -> None:
    """Variants from top to bottom, ndcg@10 from left to right."""
    figure.set_size_inches(8, 1.6 + 0.42 * len(table.rows))
    for place, row in enumerate(table.rows):
        mean, colour = row.mean(_METRIC), _VERMILION if place == 0 else _BLUE
        if mean is not None:
            seeds = list(row.values[_METRIC].values())
            axes.errorbar(mean, place, xerr=row.sd(_METRIC), fmt="D" if place == 0 else "o", color=colour,
                          markersize=7, elinewidth=2.5, zorder=3)
            if len(seeds) > 1:
                axes.plot(seeds, [place + 0.24] * len(seeds), **_SEEDS)
        axes.annotate(_label(row, place == 0), (1.02, place), xycoords=("axes fraction", "data"), va="center",
                      color=_GREY if mean is None else "black", annotation_clip=False)
    if (reference := table.rows[0].mean(_METRIC)) is not None:
        axes.axvline(reference, color=_VERMILION, linestyle="--", linewidth=1, zorder=1)
    axes.set_yticks(range(len(table.rows)), [row.variant for row in table.rows])
    axes.set_ylim(len(table.rows) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(f"test {_METRIC}")


def _sweep(figure, axes, table: Table) -> None:
    """The varied key from left to right on a binary logarithm, ndcg@10 upwards."""
    figure.set_size_inches(6.4, 4.2)
    key = table.ablation.x
    drawn = sorted((row for row in table.rows if row.values[_METRIC]), key=lambda row: row.settings[key])
    axes.set_xscale("log", base=2)
    if drawn:
        places, means = [row.settings[key] for row in drawn], [row.mean(_METRIC) for row in drawn]
        axes.errorbar(places, means, yerr=[row.sd(_METRIC) or 0.0 for row in drawn], fmt="o-", color=_BLUE,
                      markersize=6, elinewidth=2.5, zorder=3)
    for row in drawn:
        seeds = list(row.values[_METRIC].values())
        if len(seeds) > 1:
            axes.plot([1.06 * row.settings[key]] * len(seeds), seeds, **_SEEDS)  # beside the mean
        if row.mark:
            axes.annotate(row.mark, (row.settings[key], row.mean(_METRIC)), (-6, 9), ha="right",
                          textcoords="offset points")
    if table.rows[0] in drawn:
        reference = table.rows[0].settings[key], table.rows[0].mean(_METRIC)
        axes.plot(*reference, "D", color=_VERMILION, markersize=8, zorder=5)
        axes.axhline(reference[1], color=_VERMILION, linestyle="--", linewidth=1, zorder=1)
    values = sorted(row.settings[key] for row in table.rows)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set_xticks([], minor=True)
    axes.set_xlim(values[0] / 1.3, values[-1] * 1.3)
    axes.margins(y=0.12)
    axes.set_xlabel(key)
    axes.set_ylabel(f"test {_METRIC}")


def _key(table: Table) -> str:
    """What the signs mean."""
    several = any(len(row.values[_METRIC]) > 1 for row in table.rows)
    signs = "diamond, dashed: the reference" + ("; small: seeds; bar: standard deviation" if several else "")
    return signs + ("; *: significant" if any(row.mark for row in table.rows) else "")


def _label(row: Row, reference: bool) -> str:
    if row.mean(_METRIC) is None:
        return row.status if len(row.status) < 32 else row.status[:30] + "…"
    if reference:
        return f"{row.mean(_METRIC):.4f}"
    return "" if row.difference is None else f"{row.difference:+.4f} {row.mark}".strip()
