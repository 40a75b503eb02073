"""How long the page of a long leaderboard takes in headless Chromium: to load, to sort, and to show every row.

The browser is started anew each time, so its own start is in the first figure.

    python benchmarks/report.py                  # 2,000 rows in one table, three times
    python benchmarks/report.py --rows 10000
"""

from __future__ import annotations

import argparse
import http.server
import json
import queue
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from recbole_genrec.records import leaderboard_csv
from recbole_genrec.report.collect import collect
from recbole_genrec.report.html import render
from recbole_genrec.report.reading import read

MODELS = ["GenRec", "RecSysLLM", "GenRecT5", "P5", "SASRec", "GRU4Rec", "BERT4Rec", "Caser"]


def leaderboard(rows: int, seed: int = 1) -> str:
    """A ``leaderboard.csv`` of one data set and split, every row with settings of its own."""
    dice, records = random.Random(seed), []
    for number in range(rows):
        model = MODELS[number % len(MODELS)]
        ranks = sorted(dice.uniform(0.01, 0.2) for _ in range(3))
        metrics = {f"{name}@{k}": hit * (1 if name == "hit" else 0.55 + 0.01 * place)
                   for place, (k, hit) in enumerate(zip((5, 10, 20), ranks)) for name in ("hit", "ndcg")}
        records.append({
            "run_id": f"ml-100k-{model}-{number}", "timestamp": "2026-01-01T00:00:00Z", "dataset": "ml-100k",
            "model": model, "backbone": None if number % len(MODELS) > 3 else "tiny-llama", "seed": 2023,
            "config_hash": f"{number:012x}", "version": "0.1.0", "status": "ok", "split_fingerprint": "0" * 16,
            "mask_history": True, "users": 943, **metrics, "train_seconds": dice.uniform(1, 9999),
            "eval_users_per_second": dice.uniform(10, 9999), "total_parameters": dice.randint(10**5, 10**10),
            "valid_rate": dice.random(), "duplicate_rate": dice.random()})
    return leaderboard_csv(records)


class Clock(http.server.BaseHTTPRequestHandler):
    """Takes what the page measured."""

    answers: queue.Queue = queue.Queue()

    def do_POST(self):
        self.answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


#: Looks at the clock two frames after the page's own script: the rows are painted. Then it clicks, and asks for layout.
_CLOCK = """<script>
  const click = (selector) => {
    const began = performance.now();
    document.querySelector(selector)?.click();
    document.body.offsetHeight;
    return performance.now() - began;
  };
  requestAnimationFrame(() => requestAnimationFrame(() => {
    const painted = performance.now(), sorted = click('[data-sort="hit@20"]'), all = click("[data-whole]");
    const rows = document.querySelectorAll("#tables [data-row]").length;
    const body = JSON.stringify([painted, sorted, all, rows]);
    fetch("http://127.0.0.1:PORT/", {method: "POST", mode: "no-cors", body});
  }));
</script>"""
#: What is told, in this order.
_TOLD = ("from loading to painted", "sorted by another column", "all rows shown")


def seconds(page: str, rows: int, chromium: str, folder: Path) -> list[float]:
    """Seconds for each of ``_TOLD``, in a browser started for it."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Clock) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        clock = _CLOCK.replace("PORT", str(server.server_port))
        # The page's policy forbids a foreign script, so it is taken out, and with it nothing that takes time.
        page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
        file = folder / "page.html"
        file.write_text(page.replace("</body>", clock + "</body>"), encoding="utf-8")
        browser = subprocess.Popen([chromium, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000",
                                    "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}",
                                    file.as_uri()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            *milliseconds, there = Clock.answers.get(timeout=120)
            if there != rows:
                raise RuntimeError(f"the page shows {there} rows of {rows}")
            return [one / 1000 for one in milliseconds]
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("error: no Chromium on the path (apt-get install chromium)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "leaderboard.csv")
        file.write_text(leaderboard(arguments.rows), encoding="utf-8")
        began = time.monotonic()
        report = collect(*read(file))
        text = render(report)
        rows = sum(len(table["rows"]) for table in report["tables"])
        print(f"{rows} rows, page of {len(text) / 2**20:.1f} MB, made in {time.monotonic() - began:.1f} s")
        times = [seconds(text, rows, chromium, Path(folder)) for _ in range(arguments.repeats)]
    for what, column in zip(_TOLD, zip(*times)):
        print(f"{what}: " + ", ".join(f"{one:.2f}" for one in column), f"s; median {statistics.median(column):.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
