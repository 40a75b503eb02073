"""RecSysLLM as a recommender: samples of real sequences, scores against full forward passes, each backbone alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import config_of, random_interactions, records, write_dataset
from torch.nn.functional import log_softmax
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from recbole_genrec.backbone.blanks import SENTINELS
from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.benchmark import Data
from recbole_genrec.cli import main
from recbole_genrec.data.windows import TARGET_ROW
from recbole_genrec.decoding.exact import score_catalogue
from recbole_genrec.errors import UserError
from recbole_genrec.infilling.builder import History
from recbole_genrec.infilling.wording import Wording
from recbole_genrec.template import Template
from recbole_genrec.model.sequential_recommender.recsysllm import RecSysLLM

LLMS = ["tiny-glm", "tiny-llama", "tiny-t5"]
ITEMS = 40


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    titles = {f"i{n}": f"Alpha{n} Beta{n % 7} {'Gamma ' * (n % 3)}Delta" for n in range(ITEMS)}
    titles["i1"] = titles["i0"].rsplit(" ", 1)[0]  # a prefix of another
    path = write_dataset(tmp_path_factory.mktemp("data"), random_interactions(30, ITEMS, 6, 12), titles)
    (path.parent / "tiny" / "tiny.user").write_text(
        "user_id:token\tage:token\tgender:token\thobbies:token_seq\n"
        + "".join(f"u{n}\t{20 + n}\t{'' if n % 4 == 0 else 'MF'[n % 2]}\tchess old books\n" for n in range(30)))
    return path


def made(dataset: Path, **settings) -> tuple[RecSysLLM, Data]:
    load_col = {"inter": ["user_id", "item_id", "time"], "item": ["item_id", "title", "class"],
                "user": ["user_id", "age", "gender", "hobbies"]}
    config = config_of(dataset, "RecSysLLM", **{
        "precision": "fp32", "gpu_id": "", "target_stride": 1, "max_history_items": 6,
        "user_features": ["age", "gender", "hobbies"],
        "load_col": load_col, **settings})
    data = Data.load(config)
    torch.manual_seed(1)
    model = RecSysLLM(config, data.parts[0]).eval()
    for weight in model.parameters():  # far from flat, so that rankings have no near-ties
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.25)
    return model, data


def text_of(model: RecSysLLM, tokens) -> str:
    return model.tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True)


def some_users(data: Data, users: int = 8):
    return data.parts[2].inter_feat[torch.arange(users)]


# ---------------------------------------------------------------------------------------------------------- scores

@pytest.mark.parametrize("llm", LLMS)
def test_scores_are_those_of_full_forward_passes(dataset, llm):
    """Prompt, START and a title pushed on the tree give what one row with the answer in it gives, ids and all."""
    model, data = made(dataset, llm=llm, norm="full", decode="exact_all")
    batch = some_users(data, 5)
    template = model.wording.tasks["sequential"][0]
    every = model.full_sort_predict(batch).view(5, -1)
    with torch.no_grad():
        for user, row in enumerate(batch[TARGET_ROW].tolist()):
            for item in range(1, model.n_items):
                if every[user, item] == -torch.inf:  # not among the best ten
                    continue
                row_of_its_own = model._batch([model.prompts.task(model._history(row), item, template, None)])
                told = row_of_its_own.label != -100
                logits = model.backbone.logits(model.backbone.hidden_states(row_of_its_own)[told])
                total = log_softmax(logits, -1).gather(1, row_of_its_own.label[told].unsqueeze(1)).sum()
                torch.testing.assert_close(every[user, item], total, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("llm", LLMS)
def test_probabilities_of_the_catalogue_add_up_to_one(dataset, llm):
    model, data = made(dataset, llm=llm)
    with torch.no_grad():
        scores = score_catalogue(model.backbone.start(model.prompt_of(some_users(data))), model.trie, "trie")
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(8))


@pytest.mark.parametrize("llm", LLMS)
def test_each_way_of_decoding_finds_the_same_items(dataset, llm):
    lists = []
    for decode in ("exact_all", "exact_topk", "beam"):
        model, data = made(dataset, llm=llm, decode=decode, num_beams=ITEMS)
        ranking = model.recommend(some_users(data), 10)
        assert ranking.exact.all()
        lists.append(ranking.items.tolist())
    assert lists[0] == lists[1] == lists[2]


@pytest.mark.parametrize("llm", LLMS)
def test_candidates_of_a_user_are_scored_as_one_by_one(dataset, llm):
    model, data = made(dataset, llm=llm)
    rows = data.parts[2].inter_feat[torch.tensor([0, 0, 0, 1, 2, 2])]
    rows.interaction[model.ITEM_ID] = torch.tensor([3, 9, 3, 7, 1, 2])
    together = model.predict(rows)
    alone = torch.cat([model.predict(rows[torch.tensor([number])]) for number in range(6)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    model.config["decode"] = "exact_all"
    model.topk = ITEMS
    every = model.full_sort_predict(rows).view(6, -1)
    torch.testing.assert_close(together, every.gather(1, rows[model.ITEM_ID].unsqueeze(1)).squeeze(1), atol=1e-4,
                               rtol=1e-4)


@pytest.mark.parametrize("llm", LLMS)
def test_listed_candidates_are_ranked(dataset, llm):
    model, data = made(dataset, llm=llm, candidate_count=5)
    rows = some_users(data, 4)[TARGET_ROW]
    candidates = np.stack([model.draw_candidates(row, np.random.default_rng(row)) for row in rows.tolist()])
    scores = model.rank_candidates(rows, candidates)
    swapped = model.rank_candidates(rows[:1], candidates[:1])  # padding and neighbours change nothing
    torch.testing.assert_close(scores[:1], swapped, atol=1e-4, rtol=1e-4)
    assert scores.shape == (4, 5) and (scores < 0).all()


def test_padding_and_the_order_of_users_change_nothing(dataset):
    model, data = made(dataset)
    order = torch.tensor([5, 0, 3])
    whole, some = model.recommend(some_users(data), 5), model.recommend(data.parts[2].inter_feat[order], 5)
    assert whole.items[order].tolist() == some.items.tolist()


# ------------------------------------------------------------------------------------------------ other backbones

@pytest.mark.parametrize("llm", ["tiny-llama", "tiny-t5"])
def test_before_the_first_step_the_added_tables_change_nothing(dataset, llm):
    with_tables, data = made(dataset, llm=llm)
    without, _ = made(dataset, llm=llm, entity_positions=False)
    state = {name: weight for name, weight in with_tables.backbone.state_dict().items() if "_table" not in name
             and "_intra" not in name}
    without.backbone.load_state_dict(state)
    for name, weight in with_tables.backbone.state_dict().items():
        if name not in state:
            weight.zero_()
    batch = with_tables._batch([with_tables.sample(row) for row in (5, 20, 40)])
    plain = without._batch([without.sample(row) for row in (5, 20, 40)])
    assert torch.equal(batch.tokens, plain.tokens)
    with torch.no_grad():
        assert torch.equal(with_tables.backbone.hidden_states(batch), without.backbone.hidden_states(plain))
        loss = float(with_tables.calculate_loss(some_users(data)))
        for name, weight in with_tables.backbone.state_dict().items():
            if name not in state:
                weight.normal_()
        assert float(with_tables.calculate_loss(some_users(data))) != loss  # and then they do


@pytest.mark.parametrize("prefix", ["causal", "bidirectional"])
def test_a_causal_model_may_see_the_text_from_both_sides(dataset, prefix):
    model, data = made(dataset, llm="tiny-llama", prefix_attention=prefix)
    batch = model._batch([model.sample(rows_of_training(data)[30])])
    sep = int(batch.sep)
    with torch.no_grad():
        before = model.backbone.hidden_states(batch)
        later_a, b = batch.tokens.clone(), batch.tokens.clone()
        later_a[0, sep - 2] += 1
        b[0, sep + 1] += 1
        moved = model.backbone.hidden_states(replace(batch, tokens=later_a))
        assert torch.equal(moved[0, :sep - 2], before[0, :sep - 2]) == (prefix == "causal")
        moved = model.backbone.hidden_states(replace(batch, tokens=b))
        assert torch.equal(moved[0, :sep], before[0, :sep]) and not torch.equal(moved[0, sep + 1:], before[0, sep + 1:])


def test_t5_has_a_sentinel_for_every_blank(dataset):
    model, _ = made(dataset, llm="tiny-t5", train_stage="infill", mask_ratio=0.5,
                    mask_levels={"entity": 1.0, "sentence": 0.0, "document": 0.0})
    ids = model.backbone.sentinels.tolist()
    seen = 0
    for row in range(20, 60):
        if model.sequences.start[row] == row:
            continue
        batch = model._batch([model.sample(row)])
        sep, tokens = int(batch.sep), batch.tokens[0].tolist()
        blanks = int(batch.blank.max())
        assert [token for token in tokens[:sep] if token in ids] == ids[:blanks]
        assert [token for token in tokens[sep:] if token in ids] == ids[:blanks]
        assert [token for token in batch.label[0].tolist() if token in ids] == ids[1:blanks + 1]
        seen = max(seen, blanks)
    assert seen > 2


@pytest.mark.parametrize("llm", LLMS)
def test_a_saved_model_scores_the_same_when_loaded(dataset, tmp_path, llm):
    model, data = made(dataset, llm=llm)
    scores = model.full_sort_predict(some_users(data))
    model.save_pretrained(tmp_path / "model")
    torch.manual_seed(5)
    other, _ = made(dataset, llm=llm)
    for weight in other.parameters():
        torch.nn.init.normal_(weight)
    other.load_pretrained(tmp_path / "model")
    assert torch.equal(other.full_sort_predict(some_users(data)), scores)


def test_a_glm_in_a_folder_gets_lora_and_nothing_else_trains(dataset, tmp_path):
    made(dataset)[0].save_pretrained(tmp_path / "glm")
    model, data = made(dataset, llm=str(tmp_path / "glm"), lora_r=2)
    assert model.pretrained
    model.calculate_loss(data.parts[0].inter_feat[torch.arange(6)]).backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained and all("lora_" in name for name in trained)
    assert sum("lora_A" in name for name in trained) == 2 * 4  # two layers, four modules
    model, _ = made(dataset, llm=str(tmp_path / "glm"), train_block_positions=True)
    assert any("block_position_embeddings" in name for name, weight in model.named_parameters() if weight.requires_grad)


def folder_of(path: Path, kind: str, titles: list[str], tied: bool = True, extra: tuple[str, ...] = ()) -> str:
    """A small checkpoint whose vocabulary knows nothing of blanks (T5: of sentinels), but for ``extra`` tokens."""
    tokenizer = train_tokenizer([*titles, "History: age: gender: hobbies: Next", "\n"], 400, extra)
    shape = dict(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=0)
    if kind == "t5":
        model = T5ForConditionalGeneration(T5Config(**shape, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4,
                                                    decoder_start_token_id=0))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                             num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
                                             initializer_range=0.3))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("tied", [True, False])
def test_a_causal_model_in_a_folder_learns_the_tokens_that_it_lacked(dataset, tmp_path, tied):
    llm = folder_of(tmp_path / "llama", "llama", [f"Alpha{n} Beta Gamma Delta" for n in range(ITEMS)], tied)
    settings = dict(llm=llm, precision="fp32", gpu_id="", max_history_items=4, lora_dropout=0.0, decode="exact_all",
                    norm="full")
    config = config_of(dataset, "RecSysLLM", **settings)
    data = Data.load(config)
    model = RecSysLLM(config, data.parts[0])
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or "token" in name or "_table" in name for name in trained)
    optimizer = torch.optim.AdamW(trained.values(), lr=0.05)
    end, losses = model.specials.end, []

    def rows() -> torch.Tensor:
        with torch.no_grad():
            hidden = torch.eye(32)[:3]
            return model.backbone.logits(hidden)[:, end]

    before = rows()
    for _ in range(6):
        optimizer.zero_grad()
        loss = model.calculate_loss(data.parts[0].inter_feat[torch.arange(8)])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert not torch.equal(rows(), before)  # END is learnt
    model.eval()
    users = some_users(data, 4)
    scores = model.full_sort_predict(users)
    best = scores.view(4, -1).argmax(1)
    users = users.gather()
    users.interaction[model.ITEM_ID] = best
    torch.testing.assert_close(model.predict(users), scores.view(4, -1).max(1).values, atol=1e-4, rtol=1e-4)

    model.save_pretrained(tmp_path / "saved")
    size = (tmp_path / "saved" / "adapter_model.safetensors").stat().st_size
    assert size < sum(weight.numel() for name, weight in trained.items() if "_table" not in name) * 4 + 20_000
    torch.manual_seed(3)
    other = RecSysLLM(config, data.parts[0]).eval()
    assert not torch.equal(other.full_sort_predict(users), scores)
    other.load_pretrained(tmp_path / "saved")
    assert torch.equal(other.full_sort_predict(users), scores)


def test_a_t5_in_a_folder_is_trained_by_lora(dataset, tmp_path):
    model, data = made(dataset, llm=folder_of(tmp_path, "t5", ["Alpha Beta Gamma Delta"], extra=SENTINELS))
    model.train()
    model.calculate_loss(data.parts[0].inter_feat[torch.arange(6)]).backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert any("lora_" in name for name in trained) and all("lora_" in name or "_intra" in name for name in trained)
    assert model.eval().recommend(some_users(data, 3), 5).exact.all()


def test_a_t5_without_sentinels_is_refused(dataset, tmp_path):
    with pytest.raises(UserError, match="no '<extra_id_0>'"):
        made(dataset, llm=folder_of(tmp_path, "t5", ["Alpha"]))


def test_block_positions_of_another_backbone_are_refused(dataset, tmp_path):
    with pytest.raises(UserError, match="has no block_position_embeddings"):
        made(dataset, llm=folder_of(tmp_path, "llama", ["Alpha"]), train_block_positions=True)


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


def rows_of_training(data: Data) -> list[int]:
    return data.parts[0].inter_feat[TARGET_ROW].tolist()


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


# ------------------------------------------------------------------------------------------------------- mistakes

@pytest.mark.parametrize("settings, message", [
    ({"mask_levels": {"entity": 1.0, "word": 1.0}}, "word"),
    ({"mask_levels": {"entity": -1.0, "sentence": 0.0, "document": 0.0}}, "-1"),
    ({"period_days": [90, 7]}, "period_days"),
    ({"period_days": 7}, "period_days"),
    ({"train_stage": "pretrain"}, "train_stage='pretrain' is not one of infill, tasks, mix"),
    ({"task_families": {"rating": 1.0}}, "'rating' is not one of sequential, candidates"),
    ({"prompt": "next_item"}, "another model's form"),
    ({"prompt": "recsysllms"}, "did you mean 'recsysllm'"),
    ({"span_order": "random"}, "span_order"),
    ({"task_families": None}, "task_families has no value"), ({"prompt": None}, "prompt has no value"),
    ({"max_history_items": None}, "max_history_items has no value"), ({"mask_ratio": 0}, "mask_ratio"),
    ({"mask_levels": None}, "mask_levels has no value"),
    ({"task_families": {"sequential": float("inf")}}, "from 0 to 1"),
])
def test_a_mistake_is_one_sentence(dataset, settings, message):
    with pytest.raises(UserError) as caught:
        RecSysLLM.check_config(config_of(dataset, "RecSysLLM", gpu_id="", **settings))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_feature_is_named(dataset):
    with pytest.raises(UserError, match="user_features: 'agee' .* did you mean 'age'"):
        made(dataset, user_features=["agee"])


@pytest.mark.parametrize("text, message", [
    ("{user}{mask}", "must have each of"), ("{user}{history}{mask}{mask}", "once"),
    ("{user}{history}{nuon}{mask}", "did you mean 'noun'")])
def test_a_template_has_just_its_slots(text, message):
    with pytest.raises(UserError, match=message):
        Template.parse(text, {"noun": "toys"}, Wording.FAMILIES["sequential"])


# ------------------------------------------------------------------------------------------------------- real runs

@pytest.mark.parametrize("llm", LLMS)
def test_a_run_learns_and_its_record_tells_how(dataset, tmp_path, llm):
    arguments = ["run", "--model=RecSysLLM", "--dataset=tiny", f"--config_files={dataset}", f"--output_dir={tmp_path}",
                 f"--llm={llm}", "--epochs=4", "--train_batch_size=16", "--gradient_accumulation_steps=1",
                 "--validity_users=4", "--max_history_items=4", "--eval_step=2"]
    assert main(arguments) == 0
    record, = records(tmp_path)
    losses = [epoch["loss"] for epoch in record["curve"]]
    assert record["status"] == "ok" and losses[-1] < losses[0]
    assert record["exact_share"] == 1 and 0 <= record["valid_rate"] <= 1 and record["tokens_per_second"] > 0
    assert sum(record["period_shares"].values()) == pytest.approx(1, abs=1e-3)
