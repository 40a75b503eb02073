"""Candidate recommendation: which items are listed, that they are the same for all, and what is then measured."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import NAME, config_of, load, per_user, random_interactions, records, write_dataset
from recbole.data.interaction import Interaction

from recbole_genrec.benchmark import config_hash
from recbole_genrec.cli import main
from recbole_genrec.data.candidates import Candidates
from recbole_genrec.data.windows import CANDIDATES, TARGET_ROW
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.ranking import keep_items
from recbole_genrec.trainer import GenRecTrainer

INTERACTIONS = random_interactions(40, 30, 6, 12)
SMALL = ["--epochs=1", "--gpu_id=", "--hidden_size=16", "--inner_size=16", "--n_layers=1", "--validity_users=0",
         "--precision=fp32"]


@pytest.fixture(scope="module")
def yaml_file(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), INTERACTIONS)


def lists_of(data, count: int = 10, seed: int = 2023) -> dict[str, list[str]]:
    """Raw candidates by raw user, of the test."""
    rows = data.parts[2].inter_feat[TARGET_ROW]
    users, items = (data.dataset.field2id_token[field] for field in ("user_id", "item_id"))
    listed = Candidates(data.dataset, count, seed)(rows)
    return {users[user]: items[row].tolist()
            for user, row in zip(data.dataset.sequences.user[rows].tolist(), listed.numpy())}


def test_a_list_is_the_target_and_items_that_the_user_never_had(yaml_file):
    data = load(yaml_file)
    had: dict[str, set] = {}
    last: dict[str, tuple[float, str]] = {}
    for user, item, time in INTERACTIONS:
        had.setdefault(user, set()).add(item)
        last[user] = max(last.get(user, (0.0, "")), (time, item))
    lists = lists_of(data)
    assert len(lists) == 40
    for user, listed in lists.items():
        assert len(set(listed)) == 10 and set(listed) & had[user] == {last[user][1]}


def test_validation_has_its_own_target_among_the_same_negatives(yaml_file):
    data = load(yaml_file)
    candidates = Candidates(data.dataset, 10, 2023)
    for rows in (part.inter_feat[TARGET_ROW] for part in data.parts[1:]):
        target = data.dataset.sequences.item[rows]
        assert ((candidates(rows) == target.unsqueeze(1)).sum(1) == 1).all()
    user = data.dataset.sequences.user
    valid = {int(user[row]): set(candidates(row.view(1))[0].tolist()) for row in data.parts[1].inter_feat[TARGET_ROW]}
    for row in data.parts[2].inter_feat[TARGET_ROW]:
        assert len(valid[int(user[row])] & set(candidates(row.view(1))[0].tolist())) == 9


def test_lists_know_nothing_of_the_order_of_the_files_or_of_the_run(yaml_file, tmp_path):
    mixed = list(INTERACTIONS)
    random.Random(7).shuffle(mixed)
    items = list(dict.fromkeys(item for _, item, _ in INTERACTIONS))
    random.Random(8).shuffle(items)
    other = write_dataset(tmp_path, mixed, {item: f"Another {item}" for item in items})
    lists, theirs = lists_of(load(yaml_file)), lists_of(load(other, seed=99))
    assert lists == theirs
    fingerprints = {Candidates(data.dataset, 10, 2023).fingerprint(data.parts[2].inter_feat[TARGET_ROW])
                    for data in (load(yaml_file), load(other, seed=99))}
    assert len(fingerprints) == 1


def test_another_seed_draws_others_and_the_fingerprint_tells(yaml_file):
    data = load(yaml_file)
    rows = data.parts[2].inter_feat[TARGET_ROW]
    first, second = (Candidates(data.dataset, 10, seed) for seed in (1, 2))
    assert first.fingerprint(rows) == Candidates(data.dataset, 10, 1).fingerprint(rows) != second.fingerprint(rows)
    same = np.mean([len(set(a) & set(b)) for a, b in zip(first(rows).tolist(), second(rows).tolist())])
    assert same < 7  # one target and chance


def test_every_negative_and_every_place_is_as_likely_as_any_other(tmp_path):
    """200 users who had the same 5 of 30 items: each of the 25 others is drawn 72 times on average."""
    rows = [(f"u{user}", f"i{item}", float(item)) for user in range(200) for item in range(5)]
    rows += [("v", f"i{item}", float(item)) for item in range(30)]
    data = load(write_dataset(tmp_path, rows))
    sequences = data.dataset.sequences
    mine = [row for row in data.parts[2].inter_feat[TARGET_ROW].tolist()
            if data.dataset.field2id_token["user_id"][sequences.user[row]] != "v"]
    lists = Candidates(data.dataset, 10, 5)(torch.tensor(mine))
    target = sequences.item[torch.tensor(mine)]
    drawn = torch.bincount(lists[lists != target.unsqueeze(1)], minlength=31)
    assert sorted(drawn[drawn > 0].tolist())[0] > 40 and drawn.max() < 110 and int((drawn > 0).sum()) == 25
    places = torch.bincount((lists == target.unsqueeze(1)).int().argmax(1), minlength=10)
    assert places.min() >= 8 and places.max() <= 35


def test_items_outside_of_the_list_lose_their_score():
    kept = keep_items(torch.arange(12.0).view(2, 6), torch.tensor([[1, 3], [5, 2]]))
    inf = float("inf")
    assert kept.tolist() == [[-inf, 1, -inf, 3, -inf, -inf], [-inf, -inf, 8, -inf, -inf, 11]]


class Fixed(torch.nn.Module):
    """Scores that a test can know: few different values, so that ties abound."""

    def __init__(self, n_items: int):
        super().__init__()
        self.n_items = n_items

    def full_sort_predict(self, interaction):
        rows = interaction[TARGET_ROW].unsqueeze(1)
        return ((rows * 31 + torch.arange(self.n_items) * 17) % 7).float()


def test_metrics_are_those_of_counting_by_hand(yaml_file, tmp_path):
    config = config_of(yaml_file, candidates=10, gpu_id="")
    data = load(yaml_file, candidates=10, gpu_id="")
    _, _, test = data.loaders(config)
    trainer = GenRecTrainer(config, Fixed(data.dataset.item_num), data.dataset, tmp_path / "model")
    trainer.eval_collector.data_collect(test)
    metrics, users = trainer.test(test, mask_history=True)
    rows = data.parts[2].inter_feat[TARGET_ROW]
    target = data.dataset.sequences.item[rows].tolist()
    scores = Fixed(data.dataset.item_num).full_sort_predict({TARGET_ROW: rows})
    ranks = [1 + sum(float(row[item]) >= float(row[goal]) for item in listed if item != goal)
             for row, goal, listed in zip(scores, target, Candidates.of(data.dataset, config)(rows).tolist())]
    assert users["rank"].tolist() == ranks and 1 < np.mean(ranks) < 10
    for k in (1, 5, 10):
        assert metrics[f"hit@{k}"] == pytest.approx(np.mean([rank <= k for rank in ranks]))
        assert metrics[f"ndcg@{k}"] == pytest.approx(np.mean([1 / np.log2(r + 1) if r <= k else 0 for r in ranks]))
    assert all(len(row) == 10 for row in users["topk"])


@pytest.mark.parametrize("model", ["GenRec", "P5", "RecSysLLM"])
def test_a_generative_model_scores_the_list_as_it_would_one_by_one(yaml_file, model):
    config = config_of(yaml_file, model, gpu_id="", precision="fp32", num_beams=10, candidates=10)
    data = load(yaml_file, model, gpu_id="", precision="fp32", num_beams=10, candidates=10)
    torch.manual_seed(1)
    model = config.model_class(config, data.parts[0]).eval()
    users = data.parts[2].inter_feat[torch.arange(4)].gather()
    listed = Candidates.of(data.dataset, config)(users[TARGET_ROW])
    users.update(Interaction({CANDIDATES: listed}))
    scores = model.full_sort_predict(users).view(4, -1)
    assert (scores > -torch.inf).sum(1).tolist() == [10] * 4
    for place in (0, 9):
        users.interaction[model.ITEM_ID] = listed[:, place]
        expected = model.predict(users)
        torch.testing.assert_close(scores[torch.arange(4), listed[:, place]], expected, atol=1e-4, rtol=1e-4)


def test_recsysllm_lists_the_candidates_where_it_was_trained_to_read_them(yaml_file):
    settings = dict(gpu_id="", precision="fp32", candidates=10, task_families={"candidates": 1.0}, candidate_count=5)
    config, data = config_of(yaml_file, "RecSysLLM", **settings), load(yaml_file, "RecSysLLM", **settings)
    model = config.model_class(config, data.parts[0]).eval()
    users = data.parts[2].inter_feat[torch.arange(3)].gather()
    listed = Candidates.of(data.dataset, config)(users[TARGET_ROW])
    users.update(Interaction({CANDIDATES: listed}))
    scores = model.full_sort_predict(users).view(3, -1).gather(1, listed)
    torch.testing.assert_close(scores, model.rank_candidates(users[TARGET_ROW], listed.numpy()))
    assert not torch.allclose(scores, model._score(model.prompt_of(users), listed, "full"))


def test_every_model_and_seed_ranks_the_same_candidates(yaml_file, tmp_path):
    call = [f"--dataset={NAME}", f"--config_files={yaml_file}", f"--output_dir={tmp_path / 'out'}", "--candidates=10"]
    assert main(["run", "--model=Pop,SASRec,GenRec", "--seed=1,2", *call, *SMALL]) == 0
    found = records(tmp_path / "out")
    assert len(found) == 6 and {record["candidates"] for record in found} == {10}
    assert len({record["candidates_fingerprint"] for record in found}) == 1
    tables = [per_user(tmp_path / "out", record) for record in found]
    assert len({tuple(map(frozenset, table["topk"])) for table in tables}) == 1  # all ten are ranked, by all
    assert len({tuple(map(tuple, table["topk"])) for table in tables}) > 2
    header, *rows = (tmp_path / "out" / "leaderboard.csv").read_text().splitlines()
    place = header.split(",").index("candidates")
    assert {row.split(",")[place] for row in rows} == {"10"}


def test_a_full_ranking_has_the_hash_that_it_always_had(yaml_file):
    plain = config_hash(config_of(yaml_file, "SASRec"))
    assert plain == config_hash(config_of(yaml_file, "SASRec", candidate_seed=7))
    listed = [config_hash(config_of(yaml_file, "SASRec", candidates=10, candidate_seed=seed)) for seed in (1, 2)]
    assert len({plain, *listed}) == 3


@pytest.mark.parametrize("settings, message", [
    ({"candidates": 1}, "candidates=1 must be a whole number at least 2"),
    ({"candidates": 9}, r"candidates=9 is fewer than the largest topk \(10\)"),
    ({"candidates": 10, "eval_args": {"mode": "uni100"}}, "set eval_args.mode to full, not uni100"),
    ({"candidates": 28}, "candidates=28 needs 27 items that a user never had, and user u[0-9]+ leaves 18"),
])
def test_candidates_that_cannot_be_are_refused(yaml_file, settings, message):
    with pytest.raises(UserError, match=message):
        load(yaml_file, **settings)


def test_what_is_written_freely_is_not_ranked_among_candidates(yaml_file, tmp_path, capsys):
    assert main(["run", "--model=GenRec", f"--dataset={NAME}", f"--config_files={yaml_file}", "--candidates=10",
                 "--decode=free", f"--output_dir={tmp_path / 'out'}"]) == 2
    assert "decode=free ranks what the model writes" in capsys.readouterr().err and not (tmp_path / "out").exists()
