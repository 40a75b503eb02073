"""The page in a browser: headless Chromium, as a user would open the file. Skipped where there is none."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image
from test_report import HOSTILE, add, record

from recbole_genrec.records import leaderboard_csv
from recbole_genrec.report.collect import collect
from recbole_genrec.report.html import render
from recbole_genrec.report.reading import read

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") \
    or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the path, or CHROMIUM")]
POLICY = r'<meta http-equiv="Content-Security-Policy"[^>]*>'
#: What headless Chromium itself says on stderr is not the page's doing.
CONSOLE = re.compile(r":CONSOLE[:(]\d+\)?\] (.*)")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Two splits, a hostile title, curves, users, free text, a failure, published rows."""
    folder = tmp_path_factory.mktemp("report") / "results"
    facts = {"dataset": "amazon-toys", "total_parameters": 10**6, "curve": [
        {"loss": 3.0, "seconds": 1}, {"loss": 2.0, "seconds": 1, "valid": {"ndcg@10": 0.1, "hit@10": 0.2}}]}
    add(folder, record("1", 0.25, train_seconds=10, **facts), [None] * 30 + [1] * 10)
    add(folder, record("22", 1.0, model="GenRec", backbone=HOSTILE, train_seconds=500, valid_rate=0.5,
                       duplicate_rate=0.1, **facts), [1] * 40)
    add(folder, record("333", 0.5, model="Caser", train_seconds=20, **facts), [1] * 20 + [None] * 20)
    add(folder, record("4444", 0.5, model="Pop", split_fingerprint="bbbb", leaky=True))
    add(folder, record("55555", model="HGN", status="failed", reason=HOSTILE))
    path = folder / "report.html"
    path.write_text(render(collect(*read(folder))), encoding="utf-8")
    return path


def chromium(page: Path, *options: str, fragment: str = "") -> tuple[str, list[str]]:
    """What it writes to stdout, and what the page said to the console."""
    profile = page.parent / "profile"
    done = subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
                           "--enable-logging=stderr", "--hide-scrollbars", *options,
                           page.as_uri() + ("#" + fragment if fragment else "")],
                          capture_output=True, text=True, timeout=240, check=True)
    return done.stdout, CONSOLE.findall(done.stderr)


def dom(page: Path, **shown: str) -> str:
    """The page once it has come to rest, all of it in view."""
    text, said = chromium(page, "--dump-dom", "--virtual-time-budget=5000", "--window-size=1200,6000",
                          fragment=urlencode(shown))
    assert said == []
    return text


def names(text: str, table: int) -> list[str]:
    """Of a table's measured rows, from top to bottom."""
    return re.findall(r'<button type="button" data-table="%d" data-row="\d+">(.*?)</button>' % table, text)


def test_tables_stand_best_first_and_hostile_texts_are_only_shown(page):
    text = dom(page)
    tables = [names(text, number) for number in range(2)]
    assert sorted(tables) == [["GenRec", "Caser", "SASRec"], ["Pop"]] and names(text, 2) == []
    assert "<img" not in text and text.count("<script") == 2
    assert html.escape(HOSTILE, quote=False).replace("\u2028", "") in text.replace("\u2028", "")
    assert re.search(r'aria-sort="descending"><button type="button" data-sort="ndcg@10"', text)
    assert 'class="published"' in text and "Runs without a result" in text and ">leaky</span>" in text


def test_plots_are_drawn_of_everything_that_is_known(page):
    text = dom(page)
    for caption in ("Quality against cost", "By length of history", "Training", "Free text"):
        assert re.search(rf"<figcaption>{caption}.*?<svg.*?</figure>", text, re.DOTALL), caption
    assert "NaN" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("shown, expected", [
    ({"sort": "train_seconds", "dir": "ascending"}, ["SASRec", "Caser", "GenRec"]),
    ({"sort": "train_seconds", "dir": "descending"}, ["GenRec", "Caser", "SASRec"]),
    ({"sort": "model", "dir": "ascending"}, ["Caser", "GenRec", "SASRec"]),
    ({"hide": "generative"}, ["Caser", "SASRec"]), ({"q": "sas"}, ["SASRec"])])
def test_the_address_sorts_and_filters(page, shown, expected):
    text = dom(page, **shown)
    assert expected in [names(text, number) for number in range(2)]
    if "sort" in shown:
        assert f'aria-sort="{shown["dir"]}"><button type="button" data-sort="{shown["sort"]}"' in text


def test_clicking_sorts_and_opens_what_belongs_to_the_row(page, tmp_path):
    """A copy of the page clicks itself; only for that its policy is taken out."""
    text = re.sub(POLICY, "", page.read_text("utf-8"))
    clicks = """<script>
      document.querySelector('[data-sort="train_seconds"]').click();
      document.querySelector('[data-sort="train_seconds"]').click();
      [...document.querySelectorAll("[data-row]")].find((one) => one.textContent === "Caser").click();
    </script>"""
    copy = tmp_path / "clicked.html"
    copy.write_text(text.replace("</body>", clicks + "</body>"), encoding="utf-8")
    after = dom(copy)
    assert ["GenRec", "Caser", "SASRec"] in [names(after, number) for number in range(2)]
    assert 'aria-sort="descending"><button type="button" data-sort="train_seconds"' in after
    opened = after[after.index("<dialog"):after.index("</dialog>")]
    assert " open" in opened.split(">")[0] and "--model=Caser" in opened and "--model=SASRec" not in opened


def test_a_long_table_is_sorted_whole_and_shown_whole_at_a_click(tmp_path):
    rows = [record(f"{number:04}", 0.1 + number / 1000, model=f"M{number:03}") for number in range(300)]
    (tmp_path / "long.csv").write_text(leaderboard_csv(rows))
    text = render(collect(*read(tmp_path / "long.csv")))
    page = tmp_path / "long.html"
    page.write_text(text, encoding="utf-8")
    first = names(dom(page, sort="model", dir="descending"), 0)
    assert first == [f"M{number:03}" for number in reversed(range(300))][:len(first)] and 100 < len(first) < 300
    click = "<script>document.querySelector('[data-whole]').click()</script>"
    page.write_text(re.sub(POLICY, "", text).replace("</body>", click + "</body>"), encoding="utf-8")
    assert len(set(names(dom(page), 0))) == 300


def test_a_script_that_is_not_ours_does_not_run(page, tmp_path):
    foreign = tmp_path / "foreign.html"
    foreign.write_text(page.read_text("utf-8").replace("</body>", "<script>document.title = 'taken'</script></body>"),
                       encoding="utf-8")
    text, said = chromium(foreign, "--dump-dom")
    assert "<title>taken" not in text and any("Content Security Policy" in line for line in said)


@pytest.mark.parametrize("width, height", [(1400, 1600), (390, 1600)])
def test_light_and_dark_are_drawn_and_differ(page, tmp_path, width, height):
    shots = {}
    for scheme, options in (("light", []), ("dark", ["--blink-settings=preferredColorScheme=0"])):
        file = tmp_path / f"{scheme}.png"
        _, said = chromium(page, f"--screenshot={file}", f"--window-size={width},{height}", *options)
        shots[scheme] = np.asarray(Image.open(file).convert("L"), dtype=float)
        assert said == [] and shots[scheme].std() > 10  # not blank
    assert shots["light"].mean() > 200 and shots["dark"].mean() < 60


def test_a_phone_scrolls_tables_but_not_the_page(page, tmp_path):
    text = re.sub(POLICY, "", page.read_text("utf-8"))
    measure = "<script>document.title = document.documentElement.scrollWidth - innerWidth</script>"
    copy = tmp_path / "measured.html"
    copy.write_text(text.replace("</body>", measure + "</body>"), encoding="utf-8")
    said, _ = chromium(copy, "--dump-dom", "--window-size=390,800")
    assert int(re.search("<title>(-?[0-9]+)</title>", said)[1]) <= 0
