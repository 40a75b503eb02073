"""RecSysLLM's samples and prompts: what they show, what they never show, what goes first where room is short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_helpers import config_of, random_interactions, write_dataset
from recsysllm_helpers import LLMS, made, rows_of_training, some_users, text_of, write_users

from recbole_genrec.data.loading import Data
from recbole_genrec.data.windows import TARGET_ROW
from recbole_genrec.errors import UserError
from recbole_genrec.infilling.builder import History
from recbole_genrec.model.sequential_recommender.recsysllm import RecSysLLM


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_users(tmp_path_factory.mktemp("data"))


# --------------------------------------------------------------------------------------------------------- samples

@pytest.mark.parametrize("llm", LLMS)
def test_what_looks_like_a_special_token_in_a_title_is_text(tmp_path, llm):
    odd = ["The [MASK] Movie", "[END]", "<extra_id_0> and <extra_id_1>", "</s>", "<|endofpiece|>", "[START] [gMASK]"]
    titles = {f"i{n}": odd[n] if n < len(odd) else f"Title {n}" for n in range(30)}
    path = write_dataset(tmp_path, random_interactions(20, 30, 6, 12), titles)
    config = config_of(path, "RecSysLLM", llm=llm, gpu_id="", train_stage="tasks")
    data = Data.load(config)
    model = RecSysLLM(config, data.parts[0])
    special = set(vars(model.specials).values()) | set(
        [] if model.backbone.kind != "seq2seq" else model.backbone.sentinels.tolist())
    assert not special & set(model.index.tokens.tolist()) - {model.specials.end}
    for row in rows_of_training(data)[:60]:
        sample = model.sample(row)
        assert sample.blank.max() == 1 and (sample.blank[:sample.sep] > 0).sum() == 1
        assert sum(token in special - {model.specials.cls, model.specials.eos}
                   for token in sample.tokens[:sample.sep].tolist()) == 1


def test_a_number_that_is_missing_is_not_made_up(tmp_path):
    path = write_dataset(tmp_path, random_interactions(20, 30, 6, 12))
    (tmp_path / "tiny" / "tiny.user").write_text("user_id:token\tage:float\n" + "".join(
        f"u{n}\t{'' if n == 3 else 20 + n}\n" for n in range(20)))
    load_col = {"inter": ["user_id", "item_id", "time"], "item": ["item_id", "title", "class"],
                "user": ["user_id", "age"]}
    config = config_of(path, "RecSysLLM", gpu_id="", load_col=load_col, user_features=["age"])
    data = Data.load(config)
    model = RecSysLLM(config, data.parts[0])
    numbers = {str(name): number for number, name in enumerate(data.dataset.field2id_token["user_id"])}
    for user in ("u2", "u3", "[PAD]"):
        text = text_of(model, model.prompts_of([History(numbers[user], np.array([1]), None)]).tokens[0])
        assert text.startswith("age: 22\n" if user == "u2" else "History:")


def test_candidates_that_the_backbone_cannot_hold_are_refused(dataset, tmp_path):
    long = write_dataset(tmp_path, random_interactions(20, 30, 6, 12),
                         {f"i{n}": " ".join(f"Word{n}{m}" for m in range(25)) for n in range(30)})
    config = config_of(long, "RecSysLLM", gpu_id="", task_families={"sequential": 0.5, "candidates": 0.5},
                       candidate_count=29)
    with pytest.raises(UserError, match="candidate_count=29 titles need texts of .* takes 512"):
        RecSysLLM(config, Data.load(config).parts[0])
    model, data = made(dataset, task_families={"candidates": 1.0}, candidate_count=20, max_prompt_tokens=16,
                       train_stage="tasks")
    assert max(len(model.sample(row).tokens) for row in rows_of_training(data)) <= model.prompts.max_tokens


@pytest.mark.parametrize("stage", ["infill", "tasks"])
def test_a_sample_knows_nothing_of_what_came_later(dataset, stage):
    model, data = made(dataset, train_stage=stage, max_history_items=20)
    firsts = [title.split(" ")[0] for title in model.index.texts]  # each title's first word is its own
    for row in rows_of_training(data):
        sample = model.sample(row)
        start = int(model.sequences.start[row])
        known = {firsts[item] for item in model.sequences.item[start:row + 1].tolist()}
        told = {word for word in text_of(model, sample.tokens).split() if word.startswith("Alpha")}
        assert told <= known
        assert firsts[int(model.sequences.item[row])] in told or stage == "tasks"


def test_a_task_has_one_blank_that_holds_the_target_and_shows_it_nowhere_else(dataset):
    model, data = made(dataset, train_stage="tasks")
    for row in rows_of_training(data)[:60]:
        sample = model.sample(row)
        target = model.index.texts[int(model.sequences.item[row])]
        assert (sample.tokens[:sample.sep] == model.specials.entity).sum() == 1 and sample.blank.max() == 1
        assert text_of(model, sample.tokens[sample.sep:]).strip() == target
        lines = [line.strip() for line in text_of(model, sample.tokens[:sample.sep]).split("\n")]
        assert target not in lines


def test_candidates_are_listed_once_each_with_the_target_among_them(dataset):
    model, data = made(dataset, train_stage="tasks", task_families={"sequential": 0.0, "candidates": 1.0},
                       candidate_count=6)
    for row in rows_of_training(data)[:60]:
        sample = model.sample(row)
        lines = [line.strip() for line in text_of(model, sample.tokens[:sample.sep]).split("\n")]
        target = model.index.texts[int(model.sequences.item[row])]
        had = {model.index.texts[item]
               for item in model.sequences.item[int(model.sequences.start[row]):row].tolist()}
        listed = [line for line in lines if line.startswith("Alpha") and line not in had]
        assert listed.count(target) == 1 and len(listed) == len(set(listed)) == 6


def test_samples_depend_on_seed_epoch_and_row_alone(dataset):
    model, data = made(dataset)
    rows = rows_of_training(data)[:40]

    def drawn(model) -> list[list[int]]:
        return [model.sample(row).tokens.tolist() for row in rows]

    first = drawn(model)
    assert drawn(model) == first and drawn(made(dataset)[0]) == first
    model.epoch = 1
    assert drawn(model) != first
    assert drawn(made(dataset, seed=7)[0]) != first


def test_a_stride_leaves_no_target_out_for_good(dataset):
    model, data = made(dataset, target_stride=4, train_stage="tasks")
    chosen = model.training_rows(data.parts[0])
    rows = data.parts[0].inter_feat[TARGET_ROW]
    assert len(chosen) < len(rows) / 2
    targets = set()
    for epoch in range(40):
        model.epoch = epoch
        for row in rows[chosen].tolist():
            sample = model.sample(row)
            targets.add((int(model.sequences.user[row]), text_of(model, sample.tokens[sample.sep:]).strip()))
    assert targets == {(int(model.sequences.user[row]), model.index.texts[int(model.sequences.item[row])])
                       for row in rows.tolist()}


def test_unseen_templates_are_never_trained_on(dataset):
    model, data = made(dataset, train_stage="tasks")
    unseen = model.wording.unseen["sequential"][0]
    assert unseen not in model.wording.tasks["sequential"]
    marker = next(content for is_slot, content in unseen.pieces if not is_slot).strip()
    for epoch in range(3):
        model.epoch = epoch
        assert not any(marker in text_of(model, model.sample(row).tokens) for row in rows_of_training(data))
    model.prompt_set = "unseen"
    assert all(marker in text_of(model, row) for row in model.prompt_of(some_users(data)).tokens)


def test_user_features_are_written_and_missing_ones_left_out(dataset):
    model, data = made(dataset)
    numbers = {name: number for number, name in enumerate(data.dataset.field2id_token["user_id"])}
    for user, expected in (("u1", "age: 21\ngender: F\nhobbies: chess\nhobbies: old\nhobbies: books\nHistory:\n"),
                           ("u4", "age: 24\nhobbies: chess")):
        prompt = model.prompts_of([History(numbers[user], np.array([1, 2]), None)])
        assert text_of(model, prompt.tokens[0]).startswith(expected)


def test_what_does_not_fit_goes_in_order_oldest_behaviours_attributes_features(dataset):
    model, _ = made(dataset, max_history_items=20, item_features=["class"], period_sampling="off")
    builder, history = model.prompts, History(2, np.arange(1, 21), None)
    seen = []
    for room in range(400, 12, -1):
        user, lines = builder._fitting(history, room, None)
        text = builder.segments.text(np.concatenate([user, lines]))
        items = [segment for segment in lines.tolist() if segment < model.n_items]
        assert len(text) <= room and items == list(range(21 - len(items), 21))  # the newest, in order
        state = (len(items), "class:" in text_of(model, text.tokens), len(user) > 0)
        if not seen or state != seen[-1]:
            seen.append(state)
    assert seen == sorted(seen, reverse=True) and seen[0] == (20, True, True)
    assert seen[-3:] == [(1, True, True), (1, False, True), (1, False, False)]


def test_a_text_is_never_longer_than_it_may_be(dataset):
    model, data = made(dataset, max_prompt_tokens=70, max_history_items=20)
    longest = max(len(model.sample(row).tokens) for row in rows_of_training(data))
    assert model.prompts.max_tokens == 70 and 40 < longest <= 70


def test_no_number_of_an_item_or_user_stands_in_a_prompt(dataset):
    model, data = made(dataset, user_features=[])
    for row in model.prompt_of(some_users(data)).tokens:
        words = text_of(model, row).split()
        assert not any(word.isdigit() or word.startswith(("i0", "u0")) for word in words)
