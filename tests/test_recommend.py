"""Recommendations in words from runs of the command line, against what the evaluation of the same runs recorded."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import defaultdict
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from data_helpers import NAME, config_of, per_user, random_interactions, records, write_dataset

import recbole_genrec
from recbole_genrec.cli import main
from recbole_genrec.data.loading import Data
from recbole_genrec.demo.server import make_server
from recbole_genrec.errors import UserError
from recbole_genrec.recommend import Recommender

GENERATIVE = ["GenRec", "GenRecT5", "P5", "RecSysLLM"]
CLASSICAL = ["SASRec", "GRU4Rec", "BERT4Rec", "Caser", "FPMC"]
MODELS = [*GENERATIVE, *CLASSICAL, "IDAdjacency", "Pop"]
ROWS = random_interactions(40, 30, 6, 12)
#: Titles that need care; the others are "The <item> story".
SPECIAL = {"i0": "Heat (1995)", "i1": "Twin", "i2": "Twin", "i6": "Gladiators (2000)"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Runs of every model, barely trained, in ``<folder>/out``; the data beside them."""
    folder = tmp_path_factory.mktemp("runs")
    items = {item: SPECIAL.get(item, f"The {item} story") for _, item, _ in ROWS}
    yaml_file = write_dataset(folder, ROWS, items, true_time_field=None)  # typed histories have no times either
    assert main(["run", f"--model={','.join(MODELS)}", f"--dataset={NAME}", f"--config_files={yaml_file}", "--epochs=1",
                 "--precision=fp32", "--gpu_id=", "--validity_users=0", f"--output_dir={folder / 'out'}",
                 "--show_progress=false"]) == 0
    return folder


@pytest.fixture(scope="module")
def loaded(trained):
    """model name -> (what was loaded from its run, the run's record)."""
    found = {}
    for record in records(trained / "out"):
        found[record["model"]] = (recbole_genrec.load(run_of(trained, record["model"]), trained), record)
    return found


def run_of(trained: Path, model: str) -> Path:
    folder, = (trained / "out" / "runs").glob(f"{NAME}-{model}-*")
    return folder


def histories() -> dict[str, list[str]]:
    """What the evaluation knows of each user: everything but the last item, as ``id:...``."""
    users = defaultdict(list)
    for user, item, _ in sorted(ROWS, key=lambda row: row[2]):
        users[user].append(f"id:{item}")
    return {user: items[:-1] for user, items in users.items()}


@pytest.mark.parametrize("model", [name for name in MODELS if name != "Pop"])
def test_lists_are_those_that_the_evaluation_recorded(trained, loaded, model):
    recommender, record = loaded[model]
    users = per_user(trained / "out", record)
    known = histories()
    lists = recommender.recommend([known[user] for user in users["user"]], 10, users["user"].tolist())
    assert [[place.item for place in row] for row in lists] == [list(row) for row in users["topk"]]
    assert max(map(len, known.values())) > 2 * 5  # some are longer than MAX_ITEM_LIST_LENGTH
    for row in lists:
        assert [place.rank for place in row] == list(range(1, 11))
        assert all(recommender.find(f"id:{place.item}").matches[0].title == place.title for place in row)


def test_pop_ranks_by_training_counts_and_leaves_the_history_out(loaded):
    recommender, _ = loaded["Pop"]
    row, = recommender.recommend([["id:i3", "id:i4"]], 30)
    count = {raw: float(recommender.model.count[number]) for raw, number in recommender.titles.number.items()}
    counts = [count[place.item] for place in row]
    assert len(row) == 28 and counts == sorted(counts, reverse=True) and counts[0] > counts[-1]
    assert not {"i3", "i4"} & {place.item for place in row}


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_gives_what_single_histories_give(loaded, model):
    recommender, _ = loaded[model]
    rows = list(histories().values())[:6] + [["id:i3"]]
    for row, together in zip(rows, recommender.recommend(rows, 5)):
        alone, = recommender.recommend([row], 5)
        assert [place.item for place in alone] == [place.item for place in together]
        if recommender.has_probabilities:
            assert [place.probability for place in alone] == pytest.approx(
                [place.probability for place in together], rel=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_probabilities_are_those_of_the_whole_catalogue(loaded, model):
    recommender, _ = loaded[model]
    assert recommender.has_probabilities == (model in GENERATIVE or model in ("SASRec", "GRU4Rec", "BERT4Rec", "Caser"))
    wide = 30 if recommender.config["decode"] != "beam" else recommender.config["num_beams"]
    recommender.mask_history = False
    try:
        row, = recommender.recommend([["id:i3", "id:i4"]], wide)
        every = [recommender.why_not(["id:i3", "id:i4"], f"id:{item}") for item in recommender.titles.number]
    finally:
        recommender.mask_history = True
    if not recommender.has_probabilities:
        assert {(place.probability, place.log_probability) for place in row} == {(None, None)}
        return
    total = sum(why.probability for why in every)
    assert total == pytest.approx(1, abs=1e-4) if recommender.config["norm"] != "full" else total < 1
    assert len(row) == wide and [why.rank for why in every] != [1] * 30
    assert all(np.log(place.probability) == pytest.approx(place.log_probability) for place in row)


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "HGN", "NARM", "STAMP", "LightSANs", "SASRecF",
                                   "FDSA", "NPE", "HRM", "RepeatNet"])
def test_scores_are_called_logits_just_where_the_loss_takes_them_for_that(trained, model):
    config = config_of(trained / f"{NAME}.yaml", model, gpu_id="", dropout_prob=0.0, reg_weight=[0.0, 0.0])
    data = Data.load(config)
    torch.manual_seed(0)
    net = config.model_class(config, data.parts[0])
    recommender = Recommender({"model": model, "dataset": NAME}, config, data, net)
    rows = data.parts[2].inter_feat[torch.arange(8)].gather()
    rows = data.parts[2].join(rows)
    with torch.no_grad():
        scores = net.full_sort_predict(rows).view(8, -1)
        loss = float(net.calculate_loss(rows))
    assert recommender.has_probabilities == (
        abs(float(torch.nn.functional.cross_entropy(scores, rows["item_id"])) - loss) < 1e-4)


@pytest.mark.parametrize("model", [*GENERATIVE, *CLASSICAL])
def test_the_rank_of_why_not_is_that_of_predicting_every_item(trained, loaded, model):
    recommender, _ = loaded[model]
    net, known = recommender.model, histories()
    data = Data.load(recommender.config)
    raw_items, raw_users = (data.dataset.field2id_token[field] for field in ("item_id", "user_id"))
    rows = data.parts[2].inter_feat[torch.arange(3)].gather()
    for number in range(3):
        user = str(raw_users[rows["user_id"][number]])
        every = rows[torch.full((30,), number)]
        every.interaction["item_id"] = torch.arange(1, 31)
        with torch.no_grad():
            scores = dict(zip(map(str, raw_items[1:]), net.predict(every).tolist()))
        had = {query[3:] for query in known[user]}
        listed = {place.item for place in recommender.recommend([known[user]], 3, user)[0]}
        for item in ("i0", "i5", "i9", "i17", known[user][-1][3:]):
            why = recommender.why_not(known[user], f"id:{item}", 3, user)
            rivals = [score for other, score in scores.items() if other not in had and other != item]
            assert why.rank == 1 + sum(score > scores[item] for score in rivals)
            assert why.reason == ("history" if item in had else "listed" if item in listed else "below")
            assert why.items == 30 - len(had - {item}) and (why.rank <= 3) >= (item in listed)
            if recommender.generative:
                assert why.log_probability == pytest.approx(scores[item], abs=1e-4)


def test_an_item_that_a_search_misses_is_told_from_one_that_is_too_improbable(loaded):
    recommender, _ = loaded["GenRec"]
    row = recommender.recommend([["id:i3"]], 10)[0]
    recommender.config["decode"], before = "free", recommender.config["decode"]
    try:  # an untrained model writes no titles
        assert recommender.recommend([["id:i3"]], 10)[0] == []
        why = recommender.why_not(["id:i3"], f"id:{row[0].item}")
    finally:
        recommender.config["decode"] = before
    assert (why.reason, why.rank) == ("missed", 1) and "missed by the search (free)" in why.text
    assert recommender.why_not(["id:i3"], "Casablanca").reason == "unknown"


@pytest.mark.parametrize("arguments, said", [
    (([[]],), "at least one title"), ((["Heat"],), "at least one title"), (([["Heat"]], 0), "at least 1 item"),
    (([["Casablanca"]],), "no title is clearly"), (([["Twin"]],), "several items"), (([["id:i99"]],), "no item has"),
    (([["Heat"]], 3, "nobody"), "no user 'nobody'"), (([["Heat"]], 3, ["u1", "u2"]), "2 users for 1 histories"),
])
def test_histories_that_cannot_be_are_refused(loaded, arguments, said):
    with pytest.raises(UserError, match=said):
        loaded["SASRec"][0].recommend(*arguments)


def test_no_history_gives_no_list(loaded):
    assert loaded["SASRec"][0].recommend([]) == []


# ---------------------------------------------------------------------------------------------------- refusals

def copied(trained: Path, model: str, to: Path) -> Path:
    return Path(shutil.copytree(run_of(trained, model), to / "run"))


def refused(capsys, *arguments) -> str:
    assert main(["recommend", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and printed.err.startswith("error: ")
    return printed.err


def change(run: Path, **facts) -> None:
    record = json.loads((run / "record.json").read_text("utf-8"))
    (run / "record.json").write_text(json.dumps({**record, **facts}), "utf-8")


def test_other_data_are_refused(trained, tmp_path, capsys):
    arguments = ("--run", run_of(trained, "SASRec"), "--history", "Heat", "--data_path", tmp_path)
    assert "say where it is by --data_path" in refused(capsys, *arguments)
    write_dataset(tmp_path, ROWS)  # other titles
    assert "dataset_fingerprint" in refused(capsys, *arguments)
    titles = {item: SPECIAL.get(item, f"The {item} story") for _, item, _ in ROWS}
    write_dataset(tmp_path, ROWS[::-1], titles)  # the same data, but RecBole numbers it otherwise
    assert "stand in another order" in refused(capsys, *arguments)


def test_runs_that_cannot_recommend_are_refused(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rest = ("--history", "Heat", "--data_path", trained)
    assert "no run 'nothing'" in refused(capsys, "--run", "nothing", *rest)
    assert "has no record.json" in refused(capsys, "--run", tmp_path, *rest)
    run = copied(trained, "SASRec", tmp_path)
    change(run, status="failed", reason="out of luck")
    assert "status failed (out of luck)" in refused(capsys, "--run", run, *rest)
    change(run, status="ok")
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "cannot be loaded" in refused(capsys, "--run", run, *rest)
    weights.unlink()
    (run / "model" / "model.pth").write_bytes(b"a pickle")
    assert "cannot be loaded" in refused(capsys, "--run", run, *rest)
    shutil.rmtree(run / "model")
    assert "no folder model/" in refused(capsys, "--run", run, *rest)


def test_items_spelled_otherwise_are_refused(trained, tmp_path, capsys):
    run = copied(trained, "GenRec", tmp_path)
    change(run, trie_fingerprint="0123456789abcdef")
    assert "spelled otherwise" in refused(capsys, "--run", run, "--history", "Heat", "--data_path", trained)


@pytest.mark.parametrize("arguments, said", [
    (["--history", "Casablanca"], "the nearest:"), (["--history", "Twin"], "(id:i1); Twin (id:i2)"),
    (["--history", "id:i99"], "no item has the id 'i99'"), (["--history", "Heat", "--topk", "0"], "--topk=0"),
    (["--history", "Heat", "--topk", "x"], "--topk"), ([], "--history"), (["--user", "nobody"], "no user 'nobody'"),
    (["--history", "Heat", "--tpk=3"], "cannot understand '--tpk=3'"), (["--history", ""], "a title is empty"),
    (["--history", "Heat", "--why-not", "Twin"], "several items are called 'Twin'"),
])
def test_a_mistake_is_one_line(trained, capsys, arguments, said, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no terminal
    assert said in refused(capsys, "--run", run_of(trained, "SASRec"), "--data_path", trained, *arguments)


# ------------------------------------------------------------------------------------------------ command line

def test_a_list_is_printed(trained, loaded, capsys):
    assert main(["recommend", "--run", str(run_of(trained, "GenRec")), "--data_path", str(trained), "--topk", "3",
                 "--history", "heat", "gladiaters", "--why-not", "Heat"]) == 0
    printed = capsys.readouterr().out
    assert "GenRec on tiny, after:" in printed and "Gladiators (2000)  (the nearest title to 'gladiaters')" in printed
    row = loaded["GenRec"][0].recommend([["id:i0", "id:i6"]], 3)[0]
    for place in row:
        assert any(line.split() == [str(place.rank), *place.title.split(), f"{100 * place.probability:.2f}", "%"]
                   for line in printed.splitlines())
    assert "Heat (1995) is in the history" in printed


def test_a_run_is_found_by_its_id_and_a_user_by_what_they_had(trained, tmp_path, loaded, capsys, monkeypatch):
    (tmp_path / "results" / "runs").mkdir(parents=True)
    run = run_of(trained, "Caser")
    shutil.copytree(run, tmp_path / "results" / "runs" / run.name)
    monkeypatch.chdir(tmp_path)
    assert main(["recommend", f"--run={run.name}", f"--data_path={trained}", "--user=u3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    had = [item for user, item, _ in sorted(ROWS, key=lambda row: row[2]) if user == "u3"]
    assert [one["item"] for one in document["history"]] == had and document["user"] == "u3"
    row, = loaded["Caser"][0].recommend([[f"id:{item}" for item in had]], 10, "u3")
    assert [place["item"] for place in document["recommendations"]] == [place.item for place in row]


def test_the_json_document(trained, capsys):
    assert main(["recommend", "--run", str(run_of(trained, "FPMC")), "--data_path", str(trained), "--topk", "2",
                 "--history", "Heat", "id:i1", "--why-not", "Casablanca", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["run", "model", "dataset", "user", "mask_history", "history", "recommendations",
                              "why_not"]
    assert document["history"] == [{"query": "Heat", "item": "i0", "title": "Heat (1995)", "how": "words"},
                                   {"query": "id:i1", "item": "i1", "title": "Twin", "how": "id"}]
    assert [place["rank"] for place in document["recommendations"]] == [1, 2]
    assert all(list(place) == ["rank", "item", "title", "probability", "log_probability"] and
               place["probability"] is None for place in document["recommendations"])
    assert document["why_not"]["reason"] == "unknown" and document["why_not"]["query"] == "Casablanca"


def test_a_terminal_is_asked(trained, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    arguments = ["recommend", "--run", str(run_of(trained, "SASRec")), "--data_path", str(trained), "--json",
                 "--history", "Twin"]
    monkeypatch.setattr(sys, "stdin", Terminal("seven\n9\n2\n"))
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["history"] == [{"query": "Twin", "item": "i2", "title": "Twin", "how": "chosen"}]
    assert "Several items are called 'Twin'" in printed.err and printed.err.count("[1-2, empty for none]") == 3
    monkeypatch.setattr(sys, "stdin", Terminal("\n"))
    assert main(arguments) == 2 and "none of the titles" in capsys.readouterr().err


def test_importing_the_package_loads_no_model_code():
    code = ("import sys, recbole_genrec; assert callable(recbole_genrec.load); "
            "heavy = ('transformers', 'rapidfuzz', 'recbole_genrec.recommend')\n"
            "print([name for name in heavy if name in sys.modules])")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], text=True, capture_output=True)
    assert done.stdout.strip() == "[]", done.stderr


# -------------------------------------------------------------------------------------------------------- demo

@pytest.fixture(scope="module")
def served(loaded):
    server = make_server([loaded["GenRec"][0], loaded["FPMC"][0]], 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def get(server, path: str, pairs=(), host: str | None = None):
    """Status, headers, body."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{path}?{urlencode(list(pairs))}",
                                     headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def test_the_page_needs_nothing_from_elsewhere(served):
    status, headers, page = get(served, "/")
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert "http:" not in page and "https:" not in page and "innerHTML" not in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert served.server_address[0] == "127.0.0.1"


def test_the_demo_tells_its_models_and_completes_titles(served):
    about = json.loads(get(served, "/api/runs")[2])
    assert about["dataset"] == NAME and about["items"] == 30
    assert [(run["model"], run["probabilities"]) for run in about["runs"]] == [("GenRec", True), ("FPMC", False)]
    titles = json.loads(get(served, "/api/titles", [("q", "twi")])[2])["titles"]
    assert [(one["item"], one["title"]) for one in titles[:2]] == [("i1", "Twin"), ("i2", "Twin")]
    assert json.loads(get(served, "/api/titles")[2]) == {"titles": []}


def test_the_demo_shows_each_models_list(served, loaded):
    pairs = [("title", "Heat"), ("title", "id:i5"), ("k", "4"), ("why", "id:i7")]
    status, _, body = get(served, "/api/recommend", pairs)
    answer = json.loads(body)
    assert status == 200 and [one["item"] for one in answer["history"]] == ["i0", "i5"]
    for shown, model in zip(answer["lists"], ("GenRec", "FPMC")):
        recommender = loaded[model][0]
        row, = recommender.recommend([["id:i0", "id:i5"]], 4)
        assert [one["item"] for one in shown["items"]] == [place.item for place in row]
        assert shown["why_not"]["rank"] == recommender.why_not(["id:i0", "id:i5"], "id:i7", 4).rank


@pytest.mark.parametrize("path, pairs, host, status, said", [
    ("/api/recommend", [("title", "Twin")], None, 400, "several items"), ("/api/recommend", [], None, 400, "history"),
    ("/api/recommend", [("title", "Heat"), ("k", "0")], None, 400, "k=0"), ("/../setup.py", [], None, 404, "no such"),
    ("/api/runs", [], "evil.example:80", 403, "127.0.0.1 only"),
])
def test_the_demo_refuses_and_goes_on(served, path, pairs, host, status, said):
    code, _, body = get(served, path, pairs, host)
    assert code == status and said in body
    assert get(served, "/api/runs")[0] == 200


def test_runs_on_other_data_and_a_taken_port_are_refused(served, loaded):
    genrec, sasrec = loaded["GenRec"][0], loaded["SASRec"][0]
    with pytest.raises(UserError, match=f"port {served.server_port} .* cannot be had"):
        make_server([genrec], served.server_port)
    other = Recommender.__new__(Recommender)
    other.record = {**sasrec.record, "dataset_fingerprint": "another"}
    with pytest.raises(UserError, match="different data"):
        make_server([genrec, other], 0)
