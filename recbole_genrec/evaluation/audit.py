"""Can a row of a table of hit@k and ndcg@k be true? With one target per user, arithmetic ties the two together.

A user whose target is at rank r gives 1 to hit@k and 1/log2(r+1) to ndcg@k if r <= k, and nothing otherwise. So a row
is possible if and only if some distribution of ranks gives all its values within their rounding, which a linear
programme decides (:func:`feasible`). Most impossible rows break a bound that is seen without it: between any j < k,

    1/log2(k+1) * (hit@k - hit@j)  <=  ndcg@k - ndcg@j  <=  1/log2(j+2) * (hit@k - hit@j),

where hit@0 = ndcg@0 = 0, hence ndcg@k <= hit@k and ndcg@1 = hit@1. The reader wants to know the bound, so the first
ones that are broken are named.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import linprog

from recbole_genrec.errors import UserError
from recbole_genrec.settings import TEXTS, properties_dir, read_yaml

#: How tables call the two metrics; with one target per user, recall is the hit ratio.
_NAMES = {"hit": "hit", "hits": "hit", "hr": "hit", "h": "hit", "recall": "hit", "r": "hit", "hitrate": "hit",
          "hitratio": "hit", "ndcg": "ndcg", "n": "ndcg"}
_METRIC = re.compile(r"([a-z ]+?)\s*@\s*([1-9]\d{0,5})((?:_[a-z]+)?)", re.IGNORECASE)
#: What tables write around a number (bold, stars for significance), and where there is none.
_ORNAMENT = re.compile(r"</?\w+>|[*†‡_\s]")
_MISSING = ("", "-", "–", "—", "nan", "n/a", "na", "none", "null")
#: Looser than the solver's own tolerance; rounding in tables is far coarser.
_NOISE = 1e-6


@dataclass(frozen=True)
class Cell:
    """A value as it was printed: anything that rounds to it may be meant. All are shares, not percent."""

    value: float
    half_unit: float

    @property
    def low(self) -> float:
        return max(0.0, self.value - self.half_unit)

    @property
    def high(self) -> float:
        return min(1.0, self.value + self.half_unit)


#: The values of a row: (``hit`` or ``ndcg``, k) -> cell.
Cells = Mapping[tuple[str, int], Cell]


def parse_metric(name: str) -> tuple[str, int, str] | None:
    """``"HR@10"`` -> ``("hit", 10, "")``, ``"ndcg@5_untied"`` -> ``("ndcg", 5, "_untied")``; None: another column."""
    match = _METRIC.fullmatch(str(name).strip())
    kind = match and _NAMES.get(match[1].lower().replace(" ", ""))
    return (kind, int(match[2]), match[3].lower()) if kind else None


def judge(row: Mapping[str, Any], percent: bool | None = None) -> list[str]:
    """The bounds that a row breaks, each with its numbers; empty: the row is possible.

    Args:
        row: metric -> value, as text ("0.0190": rounded at the fourth place) or as number (the longest number of the
            row tells how far numbers are rounded); other keys and empty values do not count. ``hit@5_untied`` and the
            like are other users' metrics and are judged apart.
        percent: the values are percent; None: if one of them is above 1.
    Raises:
        UserError: a value is no number, or above 100.
    """
    families: dict[str, dict[str, Any]] = {}
    for name, value in row.items():
        if (parsed := parse_metric(name)) and _text(value).lower() not in _MISSING:
            families.setdefault(parsed[2], {})[str(name)] = value
    if percent is None:
        percent = any(is_percent(name, value) for family in families.values() for name, value in family.items())
    broken = []
    for suffix, family in families.items():
        broken += [f"{suffix[1:]}: {bound}" if suffix else bound for bound in _judge(*_cells(family, percent))]
    return broken


def is_percent(name: str, value: Any) -> bool:
    """Whether a value of a metric can only be percent."""
    return parse_metric(name) is not None and _text(value).lower() not in _MISSING and \
        not _text(value).endswith("%") and _number(name, value) > 1


def _judge(cells: Cells, broken: list[str]) -> list[str]:
    """What is broken besides what is known to be: simple bounds, and the linear programme where none is."""
    if not broken:
        broken = _outside(cells)
    if broken:
        return broken
    off = feasible(cells)
    if off <= _NOISE:
        return []
    return _broken_bounds(cells) or [f"no distribution of ranks gives all of these values; one is off by {off:.2g} or "
                                     "more"]


def feasible(cells: Cells) -> float:
    """By how much, beyond its rounding, the worst value must be off; 0 (up to the solver's tolerance): possible.

    Within (j, k], where j and k are neighbouring cut-offs of the row, hits can only be told apart by what they give to
    ndcg, and ranks j+1 and k give the most and the least: all other ranks are mixtures of these two.
    """
    cuts = sorted({k for _, k in cells})
    ranks = sorted({rank for low, high in zip([0, *cuts], cuts) for rank in (low + 1, high)})
    rows, limits = [], []
    for (kind, k), cell in cells.items():
        weights = [(1 / math.log2(rank + 1) if kind == "ndcg" else 1.0) if rank <= k else 0.0 for rank in ranks]
        rows += [[*weights, -1.0], [*(-weight for weight in weights), -1.0]]
        limits += [cell.high, -cell.low]
    rows.append([*[1.0] * len(ranks), 0.0])  # what is left of 1 is the share of targets beyond the last cut-off
    limits.append(1.0)
    solution = linprog([*[0.0] * len(ranks), 1.0], A_ub=np.array(rows), b_ub=limits)
    return float(solution.fun)


def _outside(cells: Cells) -> list[str]:
    return [f"{kind}@{k} = {cell.value:.6g} is no share between 0 and 1" for (kind, k), cell in cells.items()
            if cell.low > cell.high + _NOISE]


def _broken_bounds(cells: Cells) -> list[str]:
    """The simple bounds that no values within the rounding can keep."""
    broken = []
    for kind in ("hit", "ndcg"):
        known = sorted(k for name, k in cells if name == kind)
        broken += [f"{kind}@{j} = {cells[kind, j].value:.6g} is above {kind}@{k} = {cells[kind, k].value:.6g}"
                   for j, k in zip(known, known[1:]) if cells[kind, j].low > cells[kind, k].high + _NOISE]
    both = sorted(k for name, k in cells if name == "hit" and ("ndcg", k) in cells)
    broken += [bound for k in both if (bound := _pair(cells, 0, k))]
    found: list[tuple[int, int]] = []
    for j, k in sorted(((j, k) for j in both for k in both if j < k), key=lambda pair: both.index(pair[1])
                       - both.index(pair[0])):
        inside = any(j <= low and high <= k for low, high in found)  # a wider pair says the same again
        if not inside and cells["hit", j].low <= cells["hit", k].high and (bound := _pair(cells, j, k)):
            found.append((j, k))
            broken.append(bound)
    return broken


def _pair(cells: Cells, j: int, k: int) -> str | None:
    """The bound on ndcg@k - ndcg@j (j = 0: on ndcg@k alone), if it is broken."""
    nothing = Cell(0.0, 0.0)
    hit, ndcg = ((cells.get((kind, j), nothing), cells[kind, k]) for kind in ("hit", "ndcg"))
    least, most = 1 / math.log2(k + 1), 1 / math.log2(j + 2)
    hits = max(0.0, hit[1].low - hit[0].high), hit[1].high - hit[0].low
    gain = ndcg[1].low - ndcg[0].high, ndcg[1].high - ndcg[0].low
    if gain[0] <= most * hits[1] + _NOISE and gain[1] >= least * hits[0] - _NOISE:
        return None
    hits, gain = hit[1].value - hit[0].value, ndcg[1].value - ndcg[0].value
    if j == 0 and k == 1:
        return f"ndcg@1 = {gain:.4f} is not hit@1 = {hits:.4f}"
    if j == 0:
        side = f"above hit@{k}" if gain > hits else f"below hit@{k}/log2({k + 1})"
        return f"ndcg@{k} = {gain:.4f} is {side} = {hits * (most if gain > hits else least):.4f}"
    return (f"ndcg@{k} - ndcg@{j} = {gain:.4f} is not within [{least:.3f}, {most:.3f}] x (hit@{k} - hit@{j} = "
            f"{hits:.4f}) = [{least * hits:.4f}, {most * hits:.4f}]")


# ------------------------------------------------------------------------------------------------------- reading

def _text(value: Any) -> str:
    return "" if value is None else _ORNAMENT.sub("", str(value))


def _number(name: str, value: Any) -> Decimal:
    try:
        number = Decimal(_text(value).removesuffix("%"))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise UserError(f"'{value}' in column {name} is no number")
    return number


def _cells(row: Mapping[str, Any], percent: bool) -> tuple[Cells, list[str]]:
    """The values of a row, and where two columns for the same value contradict each other."""
    numbers = {name: _number(name, value) for name, value in row.items()}
    places = {name: -min(0, number.as_tuple().exponent) for name, number in numbers.items()}
    plain = [name for name, value in row.items() if not isinstance(value, str)]
    longest = max((places[name] for name in plain), default=0)  # 0.019 as a number may have been 0.0190
    cells, broken = {}, []
    for name, number in numbers.items():
        scale = 100 if percent or _text(row[name]).endswith("%") else 1
        if number > 100:
            raise UserError(f"'{row[name]}' in column {name} is above 100: no share and no percentage")
        half = 0.5 * 10.0 ** -(longest if name in plain else places[name]) / scale
        kind, k, _ = parse_metric(name)
        cell = Cell(float(number) / scale, half)
        other = cells.setdefault((kind, k), cell)
        if other is not cell and max(cell.low, other.low) > min(cell.high, other.high) + _NOISE:
            broken.append(f"{name} = {cell.value:.6g} and another {kind}@{k} = {other.value:.6g} differ")
    if ("hit", 1) in cells:  # the same number by definition
        cells.setdefault(("ndcg", 1), cells["hit", 1])
    elif ("ndcg", 1) in cells:
        cells["hit", 1] = cells["ndcg", 1]
    return cells, broken


def read_table(path: str | Path) -> tuple[list[str], list[dict[str, str]]]:
    """The header and the rows of a CSV file, separated by commas, semicolons or tabs.

    Raises:
        UserError: no such file, nothing in it, no metric among its columns, a row with too many or too few cells.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = next((mark for mark in "\t;" if mark in first), ",")
    try:
        lines = [line for line in csv.reader(text.splitlines(keepends=True), delimiter=separator, strict=True)
                 if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise UserError(f"{path} is no CSV file: {error}") from None
    if len(lines) < 2:
        raise UserError(f"{path} holds no rows under a header")
    header = [name.strip() for name in lines[0]]
    if not any(parse_metric(name) for name in header):
        raise UserError(f"{path} has no column like hit@10 or ndcg@10, only: {', '.join(header)[:200]}")
    for number, line in enumerate(lines[1:], 1):
        if len(line) != len(header):
            raise UserError(f"row {number} of {path} has {len(line)} cells, its header {len(header)}")
    return header, [dict(zip(header, line)) for line in lines[1:]]


def audit_table(path: str | Path) -> pd.DataFrame:
    """``row`` (what its line is called), ``verdict`` and ``broken`` of every row of a CSV file; percent is the whole
    table's.

    Raises:
        UserError: as :func:`read_table` and :func:`judge`, naming the row.
    """
    header, rows = read_table(path)
    first = next(index for index, name in enumerate(header) if parse_metric(name))
    naming = ["run_id"] if "run_id" in header else header[:first]
    def each(question) -> list:
        answers = []
        for number, row in enumerate(rows, 1):
            try:
                answers.append(question(row))
            except UserError as error:
                raise UserError(f"row {number} of {path}: {error}") from None
        return answers

    percent = any(each(lambda row: any(is_percent(name, value) for name, value in row.items())))
    labels = [" ".join(filter(None, (row[name].strip() for name in naming))) or f"row {number}"
              for number, row in enumerate(rows, 1)]
    return pd.DataFrame([_verdict(row=label, broken=broken)
                         for label, broken in zip(labels, each(lambda row: judge(row, percent)))])


def published() -> pd.DataFrame:
    """The published rows of ``properties/experiment/``: ``source, dataset, model, metrics`` (texts), ``verdict``
    (``ok`` or ``impossible``), ``broken``."""
    rows = []
    for path in sorted((properties_dir() / "experiment").glob("*.yaml")):
        # As texts: 0.0190 is rounded at the fourth place, and a number would not say so.
        tables = read_yaml(path, TEXTS)["published"]
        for table in tables if isinstance(tables, Sequence) else [tables]:
            rows += [_verdict(source=table["source"], dataset=dataset, model=model, metrics=metrics,
                              broken=judge(metrics))
                     for dataset, models in table.items() if dataset != "source" for model, metrics in models.items()]
    return pd.DataFrame(rows)


def of_record(record: Mapping[str, Any]) -> str:
    """``ok``, or what is broken among the metrics of a result record and of its further sets of prompts."""
    broken = judge(record)
    for name, metrics in (record.get("other_prompts") or {}).items():
        broken += [f"{name} prompts: {bound}" for bound in judge(metrics)]
    return "; ".join(broken) or "ok"


def _verdict(broken: list[str], **facts: Any) -> dict[str, Any]:
    return {**facts, "verdict": "impossible" if broken else "ok", "broken": "; ".join(broken)}
