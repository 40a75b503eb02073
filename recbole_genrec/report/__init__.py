"""``recbole-genrec report``: a leaderboard as one HTML page, or as Markdown or LaTeX tables. Nothing is trained."""

from __future__ import annotations

from pathlib import Path

from recbole_genrec.errors import UserError, did_you_mean
from recbole_genrec.files import write_atomically

#: Formats and the suffix of a file of each.
FORMATS = {"html": ".html", "markdown": ".md", "latex": ".tex"}


def write_report(leaderboard: Path, output: Path | None = None, style: str | None = None) -> int:
    """Write the report on a leaderboard and print where it is.

    Args:
        leaderboard: a ``leaderboard.csv``, or an output folder; records beside it give the details.
        output: the file to write; ``report.html``, ``.md`` or ``.tex`` by default.
        style: one of ``FORMATS``; by the file's suffix if None.
    Raises:
        UserError: the leaderboard cannot be read, or the file cannot be written.
    """
    style, output = _target(output, style)
    from recbole_genrec.report.collect import collect
    from recbole_genrec.report.reading import read

    report = collect(*read(leaderboard))
    if style == "html":
        from recbole_genrec.report.html import render
    elif style == "latex":
        from recbole_genrec.report.tables import latex as render
    else:
        from recbole_genrec.report.tables import markdown as render
    try:
        write_atomically(output, render(report))
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from None
    tables, rows = len(report["tables"]), sum(len(table["rows"]) for table in report["tables"])
    failed = f", {len(report['failed'])} run(s) without a result" if report["failed"] else ""
    print(f"written: {output} ({tables} table(s), {rows} row(s) of {report['runs']} run(s){failed})")
    return 0


def _target(output: Path | None, style: str | None) -> tuple[str, Path]:
    """The format and the file, either of which tells the other."""
    if style is None and output is not None:
        style = next((name for name, suffix in FORMATS.items() if suffix == output.suffix.lower()), None)
        if style is None:
            known = ", ".join(FORMATS.values())
            raise UserError(f"--output={output} ends in none of {known}; --format says what to write")
    style = style or "html"
    if style not in FORMATS:
        raise UserError(f"--format={style} is none of {', '.join(FORMATS)}{did_you_mean(style, FORMATS)}")
    output = output or Path(f"report{FORMATS[style]}")
    if output.is_dir():
        raise UserError(f"--output={output} is a folder, not a file")
    return style, output
