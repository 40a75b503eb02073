"""Tables for a README or a paper: Markdown (GitHub's) and LaTeX (booktabs), of the data that the page shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from recbole_genrec.report.columns import quality

_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
          "±": r"$\pm$", "·": r"$\cdot$", "…": r"\ldots{}"}
#: What Markdown or the HTML that it may hold would take for markup.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#~&$])")


def markdown(report: dict[str, Any]) -> str:
    """All tables, one after the other; runs without a result are listed below."""
    parts = [f"# {_plain(report['title'])}"]
    for table in report["tables"]:
        metrics = quality(row["values"] for row in table["rows"])
        head = ["model", "backbone, setting", "seeds", *metrics]
        lines = [head, ["---", "---", "---:", *["---:"] * len(metrics)]]
        for row in table["rows"]:
            cells = [_cell(row, metric, "**{}**".format, "<u>{}</u>".format, _plain) for metric in metrics]
            lines.append([" ".join([_plain(row["label"]), *(f"({label})" for label in _labels(row))]),
                          _plain(row["note"]), str(len(row["seeds"])), *cells])
        parts += [f"## {_plain(table['title'])}", _plain(_setting(table)), _rows(lines)]
        if key := _key(table):
            parts.append(_plain(key))
        for paper in table["published"]:
            names = quality(row["values"] for row in paper["rows"])
            lines = [["model", *names, "possible?"], ["---", *["---:"] * len(names), "---"]]
            lines += [[_plain(row["label"]), *(f"{row['values'][name]:.4f}" if name in row["values"] else ""
                                               for name in names),
                       _plain(f"impossible: breaks {row['impossible']}") if row["impossible"] else ""]
                      for row in paper["rows"]]
            parts += [f"Published, of other code and perhaps another protocol: {_plain(paper['source'])}", _rows(lines)]
    if report["failed"]:
        parts += ["## Runs without a result", "\n".join(f"- {_plain(line)}" for line in _failed(report))]
    return "\n\n".join([*parts, _plain(_NOTE)]) + "\n"


def latex(report: dict[str, Any]) -> str:
    r"""A ``table`` environment for each table, for ``\input``; runs without a result are in comments."""
    parts = [r"% Needs \usepackage{booktabs}. Made by recbole-genrec report.",
             "\n".join(f"% {line}" for line in _NOTE.splitlines())]
    for number, table in enumerate(report["tables"], 1):
        metrics = quality(row["values"] for row in table["rows"])
        lines = [r"\begin{table}", r"\centering",
                 rf"\caption{{{_tex(table['title'])}: {_tex(_setting(table))}. {_tex(_key(table))}}}",
                 rf"\label{{tab:recbole-genrec-{number}}}", rf"\begin{{tabular}}{{ll{'r' * len(metrics)}}}",
                 r"\toprule", " & ".join(["Model", "Setting", *map(_tex, metrics)]) + r" \\", r"\midrule"]
        for row in table["rows"]:
            cells = [_cell(row, metric, r"\textbf{{{}}}".format, r"\underline{{{}}}".format, r"$^{{{}}}$".format)
                     .replace("±", r"$\pm$") for metric in metrics]
            name = " ".join([_tex(row["label"]), *(rf"\emph{{({label})}}" for label in _labels(row))])
            lines.append(" & ".join([name, _tex(row["note"]), *cells]) + r" \\")
        for paper in table["published"]:
            lines += [r"\midrule", rf"\multicolumn{{{2 + len(metrics)}}}{{l}}{{\emph{{Published: "
                                   rf"{_tex(paper['source'])}}}}} \\"]
            lines += [" & ".join([_tex(row["label"]), r"\emph{impossible}" if row["impossible"] else "",
                                  *(f"{row['values'][name]:.4f}" if name in row["values"] else "" for name in metrics)])
                      + r" \\" for row in paper["rows"]]
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]))
    if report["failed"]:
        parts.append("\n".join(f"% {' '.join(line.split())}" for line in ["Runs without a result:", *_failed(report)]))
    return "\n\n".join(parts) + "\n"


_NOTE = """Mean ± standard deviation over seeds. Bold: best of the column; underlined: second; what is leaky, a leak
probe or impossible takes no place. Stars: better than the best model without a language-model backbone by a paired
t-test and Wilcoxon's test over users, corrected by Holm's method; * p < .05, ** p < .01, *** p < .001."""


def _cell(row: dict, metric: str, bold: Callable[[str], str], underlined: Callable[[str], str],
          mark: Callable[[str], str]) -> str:
    if metric not in row["values"]:
        return ""
    text = f"{row['values'][metric]:.4f}"
    text = {1: bold, 2: underlined}.get(row["best"].get(metric), str)(text)
    if metric in row["marks"]:
        text += mark(row["marks"][metric])
    return text + (f" ± {row['sd'][metric]:.4f}" if metric in row["sd"] else "")


def _labels(row: dict) -> list[str]:
    named = {"leaky": row["leaky"], "leak probe": row["kind"] == "probe", "impossible": row["impossible"],
             "earlier settings": row["older"]}
    return [label for label, holds in named.items() if holds]


def _setting(table: dict) -> str:
    users = table["users"] and f"{table['users']:,} users"
    masked = {True: "history masked", False: "history not masked"}.get(table["mask_history"])
    return ", ".join(filter(None, [users, table["split"] and f"split {table['split']}", masked]))


def _key(table: dict) -> str:
    baseline = table["baseline"].get(table["main"])
    return f"Best baseline by {table['main']}: {baseline}." if baseline else ""


def _failed(report: dict) -> list[str]:
    return [f"{run['model']} on {run['dataset']}, seed {run['seed']}: {run['status']}"
            + (f", {run['reason']}" if run["reason"] else "") + f" ({run['run_id']})" for run in report["failed"]]


def _rows(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: Any) -> str:
    """Text that Markdown shows as it is, in one line."""
    return _MARKUP.sub(r"\\\1", " ".join(str(text).split()))


def _tex(text: Any) -> str:
    """Text that LaTeX prints as it is, in one line."""
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(str(text).split()))
