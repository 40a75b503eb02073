"""The page: one file that works from disk. Style, scripts and data are inside, and nothing else may run or load.

Plots are drawn by ``plots.js``, 220 lines without a library: plotly.min.js would be 4.5 MB in every page, inline styles
that the page's policy forbids, and another thing to keep up to date, for five kinds of simple plots.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from pathlib import Path
from string import Template
from typing import Any

_HERE = Path(__file__).parent


def render(report: dict[str, Any]) -> str:
    """The page of a report that :func:`~recbole_genrec.report.collect.collect` made."""
    script = "".join((_HERE / name).read_text(encoding="utf-8") for name in ("plots.js", "report.js"))
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    # Whatever a title says: only these two texts are style and script, and the browser asks nobody for anything.
    policy = (f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
              "form-action 'none'")
    data = json.dumps(report, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Template((_HERE / "template.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(report["title"]), policy=html.escape(policy), style=style, script=script,
        data=data.replace("<", "\\u003c"))  # a text in it ends neither this element nor begins another


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
