"""The README's commands, as they stand there: converters and checks for real, runs up to the first training step."""

from __future__ import annotations

import gzip
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from test_converter_amazon import META_2014, review
from test_converter_yelp import BUSINESS, BUSINESSES, REVIEW
from test_converter_yelp import review as yelp_review

from recbole_genrec import suite, tuning
from recbole_genrec.ablation import read_ablation
from recbole_genrec.backbone import loading
from recbole_genrec.cli import main, parse
from recbole_genrec.commands.arguments import names_of, overrides_of
from recbole_genrec.files import write_atomically
from recbole_genrec.records import leaderboard_csv, read_records
from recbole_genrec.report.front import front_table
from recbole_genrec.suite import gather_settings

REPOSITORY = Path(__file__).resolve().parents[1]
#: The README, and the pages that go on where it ends; worked examples are in test_docs.py.
PAGES = ["README.md", *(f"docs/{page}.md" for page in ("use", "data", "items-and-backbones", "zero-shot", "evidence",
                                                       "speed", "models/recsysllm", "models/genrect5"))]
BLOCKS = [block for page in PAGES
          for block in re.findall(r"```bash\n(.*?)```", (REPOSITORY / page).read_text("utf-8"), re.DOTALL)]
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
SHORT = [line for line in COMMANDS if line.startswith("python -m dataset_converters") or "check-data" in line
         or line.endswith("--help")]
REPORTS = [line for line in COMMANDS if line.startswith("recbole-genrec report") and line not in SHORT]
SEARCHES = [line for line in COMMANDS if line.startswith("recbole-genrec tune")]
RUNS = [line for line in COMMANDS if re.match("recbole-genrec run --model", line)]


def raw_dumps(folder: Path) -> None:
    """Small files under the names that the commands use, in the publishers' forms."""
    lines = "".join(review(f"A{n % 3}", f"B00000000{n % 3 + 1}", 86400 * n + 10**9) + "\n" for n in range(9))
    (folder / "reviews_Toys_and_Games_5.json.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "meta_Toys_and_Games.json.gz").write_bytes(gzip.compress("".join(f"{m}\n" for m in META_2014).encode()))
    with zipfile.ZipFile(folder / "ml-25m.zip", "w") as archive:
        ratings = "".join(f"{n % 3 + 1},{n % 4 + 1},3.5,{10**9 + n}\r\n" for n in range(12))
        archive.writestr("ml-25m/ratings.csv", "userId,movieId,rating,timestamp\r\n" + ratings)
        films = "".join(f'{n},"Film No. {n}, The (1999)",Drama\r\n' for n in range(1, 6))
        archive.writestr("ml-25m/movies.csv", "movieId,title,genres\r\n" + films)
    with tarfile.open(folder / "yelp_dataset.tar", "w") as archive:
        visits = [yelp_review(f"u{user}", f"b{n % 2 + 1}", f"2019-03-{n + 1:02}")
                  for n in range(6) for user in range(6)]
        for name, text in ((REVIEW, visits), (BUSINESS, BUSINESSES)):
            member = tarfile.TarInfo(name)
            data = "".join(line + "\n" for line in text).encode()
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_the_readme_has_commands():
    assert len(SHORT) >= 6 and len(RUNS) >= 2 and len(REPORTS) >= 2
    known = (*SHORT, *RUNS, *SEARCHES)
    rest = [line for line in COMMANDS if line not in known]
    # .ci/run has the first; test_significance.py, test_audit.py and the tests of reports below have the last.
    others = r"python3\.11 -m venv|pip install|recbole-genrec (compare|audit|report) "
    assert all(re.match(others, line) for line in rest), rest


@pytest.mark.parametrize("page", [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/**/*.md")),
                                  *sorted(REPOSITORY.glob("results/**/*.md"))], ids=lambda page: page.name)
def test_nothing_is_left_to_fill_in_and_every_link_leads_somewhere(page):
    text = page.read_text("utf-8")
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    assert not re.findall(r"\b[A-Z]{2,}_[A-Z0-9]+\b|@\w+@|\bTODO\b|\bXXX\b|(?m:^[A-Z ]{5,}$)", prose)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, place = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not place or place in places(target), link


def places(page: Path) -> set[str]:
    """What GitHub calls the page's headings."""
    headings = re.findall(r"(?m)^#+ (.*)", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted((REPOSITORY / "results").glob("**/*.md")), ids=lambda page: page.name)
def test_the_commands_behind_the_results_are_understood(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "results" / "tuning", tmp_path / "results" / "tuning")
    for block in re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            program, *arguments = shlex.split(line, comments=True) or [""]
            if program == "recbole-genrec" and arguments[0] in ("run", "tune"):
                typed = parse(arguments)
                gather_settings(names_of(typed.model, "--model"), names_of(typed.dataset, "--dataset"),
                                typed.config_files.split(), overrides_of(typed))


@pytest.mark.parametrize("command", SHORT)
def test_a_short_command_ends_well_and_says_something(command, tmp_path):
    raw_dumps(tmp_path)
    program, *arguments = shlex.split(command)
    if program == "recbole-genrec":
        arguments = ["-c", "import sys; from recbole_genrec.cli import main; sys.exit(main())", *arguments]
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, text=True, capture_output=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 3 and "Traceback" not in done.stderr
    if "--name" in arguments:
        name = arguments[arguments.index("--name") + 1]
        assert {path.name for path in (tmp_path / "dataset" / name).iterdir()} == {
            f"{name}.inter", f"{name}.item", "conversion.json"}


@pytest.mark.parametrize("command", RUNS)
def test_a_run_is_planned_as_the_readme_says(command, tmp_path, monkeypatch):
    """Everything is checked before anything is trained; what follows is in the other tests."""
    planned = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suite, "run", lambda config, folder, wait, **labels:
                        planned.append((config, labels)) or {"status": "ok"})
    shutil.copytree(REPOSITORY / "results" / "tuning", tmp_path / "mine" / "tuning")
    for name in ("my-llama", "my-glm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert main(shlex.split(command)[1:]) == 0
    models = re.search("--model=([^ ]+)", command)[1].split(",")
    seeds = (re.search("--seed=([^ ]+)", command) or [None, "2023"])[1].split(",")
    ablation = re.search("--ablation=([^ ]+)", command)
    variants = list(read_ablation(ablation[1]).variants) if ablation else [None]
    assert [(config["model"], str(config["seed"]), labels.get("variant")) for config, labels in planned] == [
        (m, s, variant) for s in seeds for m in models for variant in variants]
    assert loading.resolve("my-llama") == "my-llama"


@pytest.mark.parametrize("command", SEARCHES)
def test_a_search_is_planned_as_the_readme_says(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    planned = []
    monkeypatch.setattr(tuning, "carry_out_runs", lambda plan, *_: planned.extend(plan) or ([], 0))
    assert main(shlex.split(command)[1:]) == 1  # nothing is measured
    trials = int(re.search(r"--trials=(\d+)", command)[1])
    assert len(planned) == trials * (command.partition("--dataset")[0].count(",") + 1)
    assert all(options == {"test": False} for _, options in planned)
    assert "nothing was measured" in capsys.readouterr().out


@pytest.mark.parametrize("page, dataset", [("README.md", "ml-100k"), ("README.md", "amazon-toys"),
                                           *(("results/tables.md", name)
                                             for name in ("ml-100k", "amazon-toys", "amazon-beauty"))])
def test_the_tables_are_those_of_the_committed_records(page, dataset):
    results, text = REPOSITORY / "results", (REPOSITORY / page).read_text("utf-8")
    table, = re.findall(rf"<!-- table: {dataset} -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert table == front_table(read_records(results)[0], results, dataset, every=page != "README.md")


@pytest.mark.parametrize("command", REPORTS)
def test_a_report_is_written_as_the_readme_says(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "results").mkdir()
    write_atomically(tmp_path / "results" / "leaderboard.csv", leaderboard_csv([
        {"run_id": "1", "dataset": "ml-100k", "model": "Pop", "status": "ok", "hit@10": 0.2, "ndcg@10": 0.1}]))
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0
    written = Path(re.search("written: ([^ ]+)", capsys.readouterr().out)[1])
    assert "Pop" in written.read_text("utf-8")
