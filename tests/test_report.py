"""Reports: what is collected from records, what the page embeds, Markdown and LaTeX to the letter, mistakes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import yaml
from data_helpers import NAME, random_interactions, records, write_dataset

from recbole_genrec.benchmark import config_hash
from recbole_genrec.cli import main
from recbole_genrec.evaluation import audit
from recbole_genrec.records import leaderboard_csv, update_leaderboard, write_record
from recbole_genrec.report.collect import collect
from recbole_genrec.report.html import render
from recbole_genrec.report.reading import read
from recbole_genrec.report.tables import latex, markdown
from recbole_genrec.suite import gather_settings, plan_runs

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)"> & \'q\' <!-- \u2028'


def record(run_id: str, hit: float = 0.2, **facts) -> dict:
    """A run's record, possible as it is: hits at ranks 1 to 3."""
    return {"run_id": run_id, "timestamp": f"2026-01-01T00:00:{len(run_id):02}Z", "dataset": "data", "model": "SASRec",
            "seed": 1, "status": "ok", "split_fingerprint": "aaaa", "mask_history": True, "config_hash": run_id,
            "hit@10": hit, "ndcg@10": hit * 0.6, **facts}


def add(folder: Path, one: dict, ranks: list[int | None] | None = None, config: dict | None = None) -> None:
    run_dir = folder / "runs" / one["run_id"]
    run_dir.mkdir(parents=True)
    write_record(run_dir, one)
    if config is not None:
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    if ranks is not None:
        pd.DataFrame({"user": [str(n) for n in range(len(ranks))], "rank": pd.array(ranks, dtype="Int64"),
                      "history": [3 + 10 * (n % 2) for n in range(len(ranks))]}
                     ).to_parquet(run_dir / "per_user.parquet")


def of_csv(folder: Path, *rows: dict) -> dict:
    (folder / "board.csv").write_text(leaderboard_csv(list(rows)), encoding="utf-8")
    return collect(*read(folder / "board.csv"))


# ---------------------------------------------------------------------------------------------- what is collected

def test_seeds_become_one_row_with_mean_and_deviation_and_the_newest_of_a_seed_counts(tmp_path):
    for run_id, seed, hit in (("a", 1, 0.9), ("bb", 1, 0.1), ("ccc", 2, 0.3)):
        add(tmp_path, record(run_id, hit, seed=seed), config={"seed": seed, "learning_rate": 0.1})
    row, = collect(*read(tmp_path))["tables"][0]["rows"]
    assert row["seeds"] == [1, 2] and row["values"]["hit@10"] == pytest.approx(0.2)
    assert row["sd"]["hit@10"] == pytest.approx(0.02 ** 0.5)
    assert {run["run_id"]: run["counted"] for run in row["runs"]} == {"a": False, "bb": True, "ccc": True}


def test_runs_with_other_settings_are_rows_of_their_own_told_apart_by_what_differs(tmp_path):
    for run_id, seed, rate in (("a", 1, 0.1), ("bb", 2, 0.1), ("ccc", 1, 0.2)):
        add(tmp_path, record(run_id, seed=seed), config={"seed": seed, "learning_rate": rate, "epochs": 3})
    rows = collect(*read(tmp_path))["tables"][0]["rows"]
    assert sorted((row["note"], row["seeds"], row["older"]) for row in rows) == [
        ("learning_rate: 0.1", [1, 2], True), ("learning_rate: 0.2", [1], False)]


def test_splits_masking_data_sets_and_ablations_are_never_in_one_table(tmp_path):
    report = of_csv(tmp_path, record("1"), record("2", split_fingerprint="bbbb"), record("3", mask_history=False),
                    record("4", dataset="other"), record("5", ablation="loss", variant="off"),
                    record("6", split_fingerprint=None))
    assert [len(table["rows"]) for table in report["tables"]] == [1] * 6
    assert len({(table["dataset"], table["split"], table["mask_history"], table["ablation"])
                for table in report["tables"]}) == 6


def test_leaky_probing_and_impossible_rows_take_no_place(tmp_path):
    report = of_csv(tmp_path, record("1", 0.9, model="P5", backbone="t5", leaky=True), record("2", 0.8,
                    model="IDAdjacency"), record("3", 0.7, model="GRU4Rec", **{"ndcg@10": 0.9}),
                    record("4", 0.6, model="Caser"), record("5", 0.5), record("6", 0.4, model="Pop"))
    rows = {row["label"]: row for row in report["tables"][0]["rows"]}
    assert {name: row["best"].get("hit@10") for name, row in rows.items()} == {
        "P5": None, "IDAdjacency": None, "GRU4Rec": None, "Caser": 1, "SASRec": 2, "Pop": None}
    assert "ndcg@10" in rows["GRU4Rec"]["impossible"] and rows["P5"]["kind"] == "generative"


def test_values_that_print_alike_share_a_place(tmp_path):
    rows = of_csv(tmp_path, record("1", 0.50001), record("2", 0.50002, model="Pop"), record("3", 0.4, model="Caser")
                  )["tables"][0]["rows"]
    assert [row["best"]["hit@10"] for row in rows] == [1, 1, 2]


def test_marks_baseline_intervals_and_slices_come_from_the_users(tmp_path):
    weak, strong = [None] * 30 + [1] * 10, [1] * 40
    add(tmp_path, record("1", 0.25, **{"ndcg@10": 0.25}), weak)
    add(tmp_path, record("22", 1.0, model="GenRec", backbone="tiny-llama", **{"ndcg@10": 1.0}), strong)
    table, = collect(*read(tmp_path))["tables"]
    best, other = table["rows"]
    assert best["marks"]["ndcg@10"] == "***" and other["marks"] == {} and table["baseline"]["ndcg@10"] == "SASRec"
    assert other["interval"]["hit@10"][0] < 0.25 < other["interval"]["hit@10"][1]
    assert [(one["slice"], one["users"]) for one in best["slices"]["history"]] == [("0-5", 20), ("11-20", 20)]
    assert sum(one["hit@10"] * one["users"] for one in other["slices"]["history"]) == pytest.approx(10)


def test_published_rows_stand_beside_the_data_set_that_they_are_of_with_their_verdict(tmp_path):
    report = of_csv(tmp_path, record("1", dataset="amazon-toys"), record("2", dataset="nobody-knows-it"))
    toys, unknown = report["tables"]
    known = audit.published()
    known = known[known["dataset"] == "amazon-toys"]
    rows = [row for paper in toys["published"] for row in paper["rows"]]
    assert len(rows) == len(known) > 0 and unknown["published"] == []
    assert sum(bool(row["impossible"]) for row in rows) == (known["verdict"] == "impossible").sum() > 0


def test_curve_validity_and_index_leak_of_a_record(tmp_path):
    add(tmp_path, record("1", valid_rate=0.8, duplicate_rate=0.25, near_miss_rate=0.1, empty_rate=0.05,
                         index_leak={"ndcg": 0.3, "random_ndcg": 0.01, "flagged": True}, leaky=True,
                         curve=[{"seconds": 2, "loss": 3.0}, {"seconds": 3, "loss": float("nan"),
                                                              "valid": {"ndcg@10": 0.5}}]))
    row, = collect(*read(tmp_path))["tables"][0]["rows"]
    assert row["curve"] == [{"epoch": 1, "seconds": 2, "loss": 3.0},
                            {"epoch": 2, "seconds": 5, "loss": None, "ndcg@10": 0.5}]
    assert row["validity"] == pytest.approx({"valid": 0.6, "repeats": 0.2, "near miss": 0.1, "empty": 0.05,
                                             "other": 0.05})
    assert row["leaky"] and row["values"]["index_leak_ndcg"] == 0.3


def test_further_prompts_are_rows_of_their_own(tmp_path):
    """Each with the tests of its own users' file: the baseline is better than the unseen ones, worse than the seen."""
    add(tmp_path, record("1", 1.0, model="P5", backbone="t5", prompts="seen", **{"ndcg@10": 1.0},
                         other_prompts={"unseen": {"hit@10": 0.0, "ndcg@10": 0.0}}), [1] * 40)
    add(tmp_path, record("22", 0.25, **{"ndcg@10": 0.25}), [None] * 30 + [1] * 10)
    users = pd.read_parquet(tmp_path / "runs" / "1" / "per_user.parquet").assign(rank=pd.array([None] * 40, "Int64"))
    users.to_parquet(tmp_path / "runs" / "1" / "per_user.unseen.parquet")
    rows = collect(*read(tmp_path))["tables"][0]["rows"]
    assert [(row["note"], row["values"]["hit@10"], row["marks"].get("hit@10")) for row in rows] == [
        ("t5 · seen prompts", 1.0, "***"), ("", 0.25, None), ("t5 · unseen prompts", 0.0, None)]


def test_failed_runs_are_listed_and_in_no_table(tmp_path):
    failed = {key: value for key, value in record("9", model="Caser", status="failed", reason="out of memory").items()
              if "@" not in key}
    report = of_csv(tmp_path, record("1"), failed)
    assert [row["label"] for table in report["tables"] for row in table["rows"]] == ["SASRec"]
    assert [(run["model"], run["reason"]) for run in report["failed"]] == [("Caser", "out of memory")]


def test_a_bare_csv_has_what_it_says_and_its_records_say_more(tmp_path):
    rows = [record("1", config_hash="12e45678"), record("2", 0.3, model="=Pop", train_seconds=5)]
    bare = of_csv(tmp_path, *rows)["tables"][0]["rows"]
    assert [(row["label"], row["values"].get("train_seconds")) for row in bare] == [("=Pop", 5), ("SASRec", None)]
    assert bare[1]["runs"][0]["config_hash"] == "12e45678" and not bare[1]["runs"][0]["whole"]
    add(tmp_path, {**rows[0], "curve": [{"loss": 1.0}]})
    add(tmp_path, record("3"))
    with_record = collect(*read(tmp_path / "board.csv"))["tables"][0]["rows"]
    assert {row["label"]: len(row["curve"]) for row in with_record} == {"=Pop": 0, "SASRec": 1}  # "3" is no row of it


def test_a_bare_csv_averages_no_runs_whose_settings_cannot_be_told_apart(tmp_path):
    rows = of_csv(tmp_path, record("1", 0.1), record("22", 0.3), record("333", 0.2, seed=2))["tables"][0]["rows"]
    assert [row["seeds"] for row in rows] == [[1], [2], [1]]
    rows = of_csv(tmp_path, record("1", 0.1), record("333", 0.3, seed=2))["tables"][0]["rows"]
    assert [(row["seeds"], row["values"]["hit@10"]) for row in rows] == [([1, 2], pytest.approx(0.2))]


def test_the_same_records_give_the_same_page(tmp_path):
    add(tmp_path, record("1"), [1, None, 3])
    add(tmp_path, record("22", model="Pop"), [2, 5, None])
    assert render(collect(*read(tmp_path))) == render(collect(*read(tmp_path)))


def test_the_command_of_a_row_plans_the_run_that_it_is_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = write_dataset(tmp_path, random_interactions(users=20))
    assert main(["run", "--model=Pop", f"--dataset={NAME}", f"--config_files={settings}", "--seed=7",
                 "--output_dir=results", "--topk=[5,10]"]) == 0
    run, = collect(*read(Path("results")))["tables"][0]["rows"][0]["runs"]
    words = dict(word.removeprefix("--").split("=", 1) for word in shlex.split(run["command"])[2:])
    given = gather_settings([words["model"]], [words["dataset"]], [words["config_files"]],
                            {"data_path": str(tmp_path)})
    config, = plan_runs([words["model"]], [words["dataset"]], [], given)
    assert run["whole"] and config_hash(config) == records(tmp_path / "results")[0]["config_hash"]


def test_no_command_holds_more_than_its_words(tmp_path):
    report = of_csv(tmp_path, record("1", model="$(reboot); `x` 'y'", seed=3))
    command = report["tables"][0]["rows"][0]["runs"][0]["command"]
    assert shlex.split(command)[2] == "--model=$(reboot); `x` 'y'"


# --------------------------------------------------------------------------------------------------------- the page

class Page(HTMLParser):
    """Elements as a browser would see them, and the text right after each start."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.texts.append("")
        self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.texts[-1] += data


def test_hostile_texts_stay_texts_and_the_policy_knows_only_our_script_and_style(tmp_path):
    folder = tmp_path / "<b>x&amp;"
    folder.mkdir()
    text = render(of_csv(folder, record("1", model=HOSTILE, dataset=HOSTILE, backbone=HOSTILE),
                         record("2", status="failed", reason=HOSTILE)))
    page = Page(text)
    tags = [tag for tag, _ in page.found]
    assert tags.count("script") == 2 and tags.count("style") == 1 and "img" not in tags and "b" not in tags
    data, script = [page.texts[i] for i, tag in enumerate(tags) if tag == "script"]
    embedded = json.loads(data)
    row = embedded["tables"][0]["rows"][0]
    assert row["model"] == HOSTILE and embedded["failed"][0]["reason"] == HOSTILE
    assert page.texts[tags.index("title")] == "Leaderboard: <b>x&amp;" == embedded["title"]
    policy = next(facts["content"] for tag, facts in page.found if facts.get("http-equiv"))
    for kind, inside in (("script", script), ("style", page.texts[tags.index("style")])):
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    text = render(of_csv(tmp_path, record("1")))
    for _, facts in Page(text).found:
        assert not {"src", "srcset", "action"} & facts.keys() and facts.get("href", "#").startswith("#")
        assert not any(name.startswith("on") or name == "style" for name in facts)
    assert not re.search(r"https?://|@import|url\(", text)


def test_the_page_ships_with_the_package():
    setup = (Path(__file__).parents[1] / "setup.py").read_text("utf-8")
    folder = Path(__file__).parents[1] / "recbole_genrec" / "report"
    shipped = set(re.findall(r'"([^"]+)"', re.search(r'"recbole_genrec.report": \[(.*?)\]', setup)[1]))
    assert {f"*{path.suffix}" for path in folder.iterdir() if path.is_file() and path.suffix != ".py"} == shipped


# -------------------------------------------------------------------------------------------- Markdown and LaTeX

def small(folder: Path) -> dict:
    users = {"users": 1943}
    add(folder, record("1", 0.25, model="R&D_50%#", **users, **{"ndcg@10": 0.15}), [None] * 30 + [1] * 10)
    for run_id, seed, hit in (("22", 1, 0.9), ("333", 2, 1.0)):
        add(folder, record(run_id, hit, seed=seed, model="GenRec", backbone="tiny_llama", **users), [1] * 40,
            {"seed": seed})
    add(folder, record("4444", 1.0, model="P5", backbone="t5", leaky=True, item_index="sequential", **users))
    add(folder, {**record("55555", model="Caser", status="failed", reason="a | b_c"), "hit@10": None, "ndcg@10": None})
    return collect(*read(folder))


def test_markdown_to_the_letter(tmp_path):
    text = markdown(small(tmp_path / "results"))
    assert text.split("\n\n")[:6] == [
        "# Leaderboard: results", "## data", "1,943 users, split aaaa, history masked",
        "| model | backbone, setting | seeds | hit@10 | ndcg@10 |\n"
        "| --- | --- | ---: | ---: | ---: |\n"
        r"| P5 (leaky) | t5 · sequential | 1 | 1.0000 | 0.6000 |" "\n"
        r"| GenRec | tiny\_llama | 2 | **0.9500**\*\*\* ± 0.0707 | **0.5700**\*\*\* ± 0.0424 |" "\n"
        r"| R\&D\_50%\# |  | 1 | <u>0.2500</u> | <u>0.1500</u> |",
        r"Best baseline by ndcg@10: R\&D\_50%\#.",
        "## Runs without a result"]
    assert r"- Caser on data, seed 1: failed, a \| b\_c (55555)" in text


def test_latex_to_the_letter(tmp_path):
    text = latex(small(tmp_path / "results"))
    assert text[text.index(r"\begin{table}"):].split("\n\n")[0] == "\n".join([
        r"\begin{table}", r"\centering",
        r"\caption{data: 1,943 users, split aaaa, history masked. Best baseline by ndcg@10: R\&D\_50\%\#.}",
        r"\label{tab:recbole-genrec-1}", r"\begin{tabular}{llrr}", r"\toprule",
        r"Model & Setting & hit@10 & ndcg@10 \\", r"\midrule",
        r"P5 \emph{(leaky)} & t5 $\cdot$ sequential & 1.0000 & 0.6000 \\",
        r"GenRec & tiny\_llama & \textbf{0.9500}$^{***}$ $\pm$ 0.0707 & \textbf{0.5700}$^{***}$ $\pm$ 0.0424 \\",
        r"R\&D\_50\%\# &  & \underline{0.2500} & \underline{0.1500} \\",
        r"\bottomrule", r"\end{tabular}", r"\end{table}"])
    assert "% Caser on data, seed 1: failed, a | b_c (55555)" in text


def test_a_name_with_line_breaks_or_markup_breaks_no_table(tmp_path):
    report = of_csv(tmp_path, record("1", model="a\nb | c \\input{/etc/passwd} ~^{}$", dataset="d\n\n% e"),
                    record("2", status="failed", reason="one\n\\end{document}"))
    lines = markdown(report).splitlines()
    assert r"| a b \| c \\input\{/etc/passwd\} \~^\{\}\$ |  | 1 |" in "\n".join(lines)
    tex = latex(report)
    assert r"a b | c \textbackslash{}input\{/etc/passwd\} \textasciitilde{}\textasciicircum{}\{\}\$ & " in tex
    assert all(line.startswith("%") for line in tex.splitlines() if "end{document}" in line)


# --------------------------------------------------------------------------------------------------- command line

@pytest.mark.parametrize("options, name, start", [
    ([], "report.html", "<!DOCTYPE html>"), (["--output", "x.MD"], "x.MD", "# "), (["--output=x.tex"], "x.tex", "% "),
    (["--format=latex"], "report.tex", "% "), (["--format=markdown", "--output=notes.txt"], "notes.txt", "# ")])
def test_the_suffix_or_the_format_says_what_is_written(options, name, start, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    add(tmp_path / "results", record("1"))
    update_leaderboard(tmp_path / "results")
    assert main(["report", "results", *options]) == 0
    assert (tmp_path / name).read_text("utf-8").startswith(start)
    assert capsys.readouterr().out.startswith(f"written: {name} (1 table(s), 1 row(s)")


@pytest.mark.parametrize("arguments, said", [
    (["nowhere.csv"], "nowhere.csv"), (["empty"], "neither leaderboard.csv nor runs/"),
    (["header.csv"], "has no row"), (["other.csv"], "no column run_id"), (["torn.csv"], "row 1"),
    (["huge.csv"], "row 1"),
    (["binary.csv"], "cannot read"), (["good.csv", "--output=report.pdf"], "--format"),
    (["good.csv", "--format=htlm"], "did you mean 'html'"), (["good.csv", "--output=no/folder/x.html"], "cannot write"),
    (["good.csv", "--output=empty"], "none of"), (["good.csv", "--colour=red"], "--colour=red"), ([], "LEADERBOARD")])
def test_a_mistake_is_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    Path("header.csv").write_text(leaderboard_csv([]))
    Path("good.csv").write_text(leaderboard_csv([record("1")]))
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("torn.csv").write_text("run_id,dataset,model,status\nx,y\n")
    Path("huge.csv").write_text(f"run_id,dataset,model,status,seed\nr,x,y,ok,{'9' * 5000}\n")
    Path("binary.csv").write_bytes(b"\xff\xfe\x00run_id")
    assert main(["report", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and said in err
