"""RecSysLLM as a recommender: scores against full forward passes, each backbone alike, mistakes, real runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import config_of, records
from recsysllm_helpers import ITEMS, LLMS, made, rows_of_training, some_users, write_users
from torch.nn.functional import log_softmax
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from recbole_genrec.backbone.blanks import SENTINELS
from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.data.loading import Data
from recbole_genrec.cli import main
from recbole_genrec.data.windows import TARGET_ROW
from recbole_genrec.decoding.exact import score_catalogue
from recbole_genrec.errors import UserError
from recbole_genrec.infilling.wording import Wording
from recbole_genrec.template import Template
from recbole_genrec.model.sequential_recommender.recsysllm import RecSysLLM


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_users(tmp_path_factory.mktemp("data"))


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
