"""Bad results, by the thousand: damaged records, leaderboards, tables and runs give a result or one line of ours.

As ``test_fuzz.py``, which says how to look for new inputs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from data_helpers import NAME, random_interactions, write_dataset
from fuzz_helpers import VALUE, bounded, fuzz, fuzz_folder, mutated, refusal, told, typed  # noqa: F401
from hypothesis import example, given
from hypothesis import strategies as st

from recbole_genrec.cli import main
from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.demo.server import _App
from recbole_genrec.evaluation import ablation_report, audit
from recbole_genrec.evaluation.audit import published
from recbole_genrec.recommend import load
from recbole_genrec.records import leaderboard_csv, update_leaderboard
from recbole_genrec.titles import Titles
from recbole_genrec.zero_shot.cache import AnswerCache

#: A run's record as runs write it, but for what is not read again.
RECORD = {
    "run_id": "any", "timestamp": "2026-01-01T00:00:00Z", "dataset": "data", "model": "GenRec", "seed": 1,
    "status": "ok", "split_fingerprint": "aaaa", "dataset_fingerprint": "bbbb", "mask_history": True,
    "config_hash": "cccc", "version": "0.1", "hit@5": 0.1, "ndcg@5": 0.06, "hit@10": 0.2, "ndcg@10": 0.12, "users": 20,
    "train_seconds": 1.5, "backbone": "tiny-llama", "item_index": "title", "prompts": None, "candidates": None,
    "candidates_fingerprint": None, "leaky": False, "variant": "title", "ablation": "item_index", "reference_hash": "r",
    "variant_hash": "v", "reason": None, "valid": {"hit@10": 0.2, "ndcg@10": 0.12},
    "curve": [{"loss": 2.5, "seconds": 1.0, "valid": {"ndcg@10": 0.1}}],
    "valid_rate": 0.5, "duplicate_rate": 0.1, "near_miss_rate": 0.2, "empty_rate": 0.0, "audit": "ok",
    "other_prompts": {"unseen": {"hit@10": 0.2, "ndcg@10": 0.12}}, "index_leak": {"ndcg": 0.1, "random_ndcg": 0.1},
    "machine": {"processor": "x", "threads": 1, "gpu": None}, "versions": {"torch": "2"},
    "leakage": {"users": 20, "items": 10, "interactions": 99, "flagged": []},
}
GOOD = {**RECORD, "run_id": "good", "model": "SASRec", "backbone": None, "timestamp": "2026-01-02T00:00:00Z",
        "other_prompts": None, "ablation": None, "variant": None, "index_leak": None}


@pytest.fixture(scope="module")
def folder(fuzz_folder):
    """The working folder of all examples, with a good run in ``results``."""
    put("good", json.dumps(GOOD).encode())
    # What no record changes and takes longest: the tables of papers, and the plot of an ablation.
    known = published()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "published", lambda: known)
        patch.setattr(ablation_report, "plot", lambda table: "")
        yield fuzz_folder


def put(name: str, record: bytes, config: bytes = b"seed: 1\n") -> Path:
    """A run's folder."""
    run = Path("results", "runs", name)
    run.mkdir(parents=True, exist_ok=True)
    (run / "record.json").write_bytes(record)
    (run / "config.yaml").write_bytes(config)
    pd.DataFrame({"user": [str(n) for n in range(20)], "rank": pd.array([1 + n for n in range(20)], dtype="Int64"),
                  "history": range(20), "target_count": range(20)}).to_parquet(run / "per_user.parquet")
    return run


@st.composite
def changed(draw, record: dict) -> dict:
    """A record in which up to three values, at any depth, are something else."""
    record = json.loads(json.dumps(record))
    for _ in range(draw(st.integers(1, 3))):
        inner = record
        while True:
            key = draw(st.sampled_from(sorted(inner)) if isinstance(inner, dict) else st.integers(0, len(inner) - 1))
            if isinstance(inner[key], (dict, list)) and inner[key] and draw(st.booleans()):
                inner = inner[key]
                continue
            if draw(st.integers(0, 4)):
                inner[key] = draw(VALUE)
            else:
                del inner[key]
            break
        if not record:
            break
    return record


RECORDS = mutated(json.dumps(RECORD, indent=1)) | changed(RECORD).map(
    lambda record: json.dumps(record).encode())


@fuzz(12)
@given(RECORDS, mutated("seed: 1\nlearning_rate: 0.1\n"))
@example(json.dumps({**RECORD, "variant": []}).encode(), b"")  # unhashable
@example(json.dumps({**RECORD, "seed": {}}).encode(), b"")
@example(json.dumps({**RECORD, "ndcg@10": {}}).encode(), b"")
@example(json.dumps({**RECORD, "ndcg@10": 10**400}).encode(), b"")
@example(json.dumps({**RECORD, "curve": 5.0}).encode(), b"")
@example(json.dumps({**RECORD, "curve": [None]}).encode(), b"")
@example(json.dumps({**RECORD, "valid": "x"}).encode(), b"")
@example(json.dumps({**RECORD, "machine": True}).encode(), b"")
@example(json.dumps({**RECORD, "other_prompts": {"a": []}}).encode(), b"")
@example(json.dumps({**RECORD, "leakage": {"users": "x"}}).encode(), b"")
@example(json.dumps({**RECORD, "model": "\ud800"}).encode(), b"")  # no terminal shows it
@example(b"[" * 100_000, b"")
def test_any_record(folder, record, config):
    put("any", record, config)
    with bounded("records: leaderboard"):
        update_leaderboard(Path("results"))
    for command in (["report", "results", "--output=x.html"], ["report", "results", "--output=x.md"], ["compare"],
                    ["report", "results", "--output=x.tex"], ["ablation", "item_index"],
                    ["audit", "results/leaderboard.csv"]):
        typed(f"records: {command[0]}", main, command, (0, 1, 2) if command[0] == "audit" else (0, 2))


@fuzz(30)
@given(mutated(leaderboard_csv([GOOD, {**RECORD, "other_prompts": None}])))
def test_any_leaderboard(folder, content):
    path = folder / "board" / "leaderboard.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    typed("leaderboards", main, ["report", str(path), "--output=x.html"])
    with bounded("leaderboards"):
        update_leaderboard(path.parent)


TABLE = "model,hit@5,ndcg@5,hit@10,ndcg@10\nGRU4Rec,0.0190,0.0136,0.0251,0.0157\nSASRec,1.9 %,1.36%,2.51%,1.57%\n"


@fuzz(30)
@given(mutated(TABLE, TABLE.replace(",", ";"), TABLE.replace(",", "\t"), "run_id,HR@10,N@10\nx,0.5,0.4\n"))
def test_any_table(folder, content):
    Path("table.csv").write_bytes(content)
    typed("audited tables", main, ["audit", "table.csv"], (0, 1, 2))


# -------------------------------------------------------------------------------------------------- a finished run

@pytest.fixture(scope="module")
def trained(folder) -> Path:
    """Runs of two models, barely trained, and the data beside them."""
    data = write_dataset(folder, random_interactions(30, 20, 5, 8), true_time_field=None)
    assert main(["run", "--model=Pop,SASRec", f"--dataset={NAME}", f"--config_files={data}", "--epochs=1", "--gpu_id=",
                 "--output_dir=out", "--show_progress=false", "--hidden_size=8", "--inner_size=8"]) == 0
    return folder


def damaged(trained: Path, model: str) -> Path:
    """A copy of a run, to be damaged."""
    source, = (trained / "out" / "runs").glob(f"{NAME}-{model}-*")
    shutil.rmtree("damaged", ignore_errors=True)
    return Path(shutil.copytree(source, "damaged"))


@fuzz(12)
@given(st.sampled_from(["Pop", "SASRec"]), st.sampled_from(["record.json", "config.yaml", "model/model.safetensors"]),
       st.data())
def test_any_run(trained, model, name, data):
    run = damaged(trained, model)
    if (path := run / name).is_file():
        if name == "record.json" and data.draw(st.booleans()):
            content = json.dumps(data.draw(changed(json.loads(path.read_text("utf-8"))))).encode()
        elif name == "config.yaml" and data.draw(st.booleans()):
            content = yaml.safe_dump(data.draw(changed(yaml.safe_load(path.read_text("utf-8"))))).encode()
        else:
            content = data.draw(mutated(path.read_bytes()))
        path.write_bytes(content)
    typed("runs", main, ["recommend", "--run=damaged", f"--data_path={trained}", "--history", "id:i1", "--topk=3"])


@pytest.fixture(scope="module")
def recommender(trained):
    return load(damaged(trained, "SASRec"), trained)


TITLE = st.text(max_size=20) | st.sampled_from(["The i1 story", "id:i1", "id:", "i1 story, The", "\x00", "\ud800", " ",
                                                "x" * 9999, "=1+1", "<script>", "(" * 99, "１９９５", "İ", "ﷺ" * 30])


@fuzz(30)
@given(st.dictionaries(st.sampled_from(["title", "q", "k", "why", "user", "other"]), st.lists(
    TITLE | st.integers().map(str), min_size=1, max_size=3)))
def test_any_request_of_the_demo(recommender, query):
    app = _App([recommender, recommender])
    for endpoint in (app.runs, app.titles, app.recommend):
        refusal("demo", lambda: json.dumps(endpoint(query), allow_nan=False).encode())


@fuzz(30)
@given(st.lists(TITLE, min_size=1, max_size=6), TITLE)
def test_any_title(titles, query):
    titles = [" ".join(title.split()) for title in titles]
    known = Titles(Catalogue(["", *titles], ["[PAD]", *(f"i{n}" for n in range(len(titles)))], 0))
    refusal("titles", lambda: known.suggest(query))
    refusal("titles", lambda: known.find(query).the_one())


SENT = {"model": "m", "prompt": "p"}


@fuzz(30)
@example(b"[" * 100_000)
@given(mutated(json.dumps({"sent": SENT, "answer": {"text": "a", "prompt_tokens": 1, "completion_tokens": 1}})))
def test_any_kept_answer(folder, content):
    cache = AnswerCache(folder / "answers")
    cache._path(SENT).write_bytes(content)
    with bounded("kept answers"):
        answer = cache.get(SENT)
    assert answer is None or isinstance(answer["text"], str)
