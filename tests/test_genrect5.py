"""GenRecT5: what the encoder sees in each stage, ID embeddings, and the cut-offs of training, validation and test."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import config_of, made, random_interactions, records, write_dataset
from scipy.stats import chisquare

from recbole_genrec.cli import main
from recbole_genrec.data.loading import Data
from recbole_genrec.data.windows import TARGET_ROW
from recbole_genrec.errors import UserError
from recbole_genrec.model.sequential_recommender.genrect5 import GenRecT5
from recbole_genrec.prompt import Rows

LLMS = ["tiny-t5", "tiny-bart"]
ITEMS = 30


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    titles = {f"i{n}": f"Alpha{n} Beta{n % 5} {'Gamma ' * (n % 3)}Delta" for n in range(ITEMS)}
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(25, ITEMS, 5, 10), titles,
                         MAX_ITEM_LIST_LENGTH=12)


def words(model: GenRecT5, tokens) -> list[str]:
    """Words of a text; MASK for the mask."""
    text = model.tokenizer.decode([int(token) for token in tokens if token])
    for special, shown in (("<extra_id_0>", " MASK "), ("</s>", " "), ("<s>", " ")):
        text = text.replace(special, shown)
    return text.split()


def pretraining_batch(model: GenRecT5, data: Data):
    rows = data.parts[0].inter_feat[model.pretraining_rows(data.parts[0])].gather()
    return rows, model._with_one_masked(rows[model.ITEM_SEQ], rows[model.ITEM_ID], rows[model.USER_ID],
                                        rows[TARGET_ROW])


# ---------------------------------------------------------------------------------------------------------- texts

@pytest.mark.parametrize("llm", LLMS)
def test_pretraining_masks_one_item_of_all_that_may_be_seen(dataset, llm):
    model, data = made("GenRecT5", dataset, llm=llm)
    sequences = data.dataset.sequences
    rows, (prompts, masked) = pretraining_batch(model, data)
    assert len(rows) == 25
    for number, row in enumerate(rows[TARGET_ROW].tolist()):
        start = int(sequences.start[row])
        seen = sequences.item[start:row + 1].tolist()  # s_1 .. s_{n-2}
        assert int((sequences.start == start).sum()) == len(seen) + 2
        text, items = prompts.tokens[number], prompts.item[number]
        assert (text == model.prompts.tokens[-1]).sum() == 1  # one mask
        place = seen.index(int(masked[number]))
        shown = list(dict.fromkeys(item for item in items.tolist() if item))
        assert shown == seen[:place] + seen[place + 1:]
        restored = " ".join(words(model, text)).replace("MASK", model.index.texts[seen[place]])
        user = model.user_texts[int(rows[model.USER_ID][number])]
        assert restored == " ".join([user, *(model.index.texts[item] for item in seen)])


def test_the_masked_item_is_drawn_uniformly_and_anew_each_epoch(dataset):
    model, data = made("GenRecT5", dataset)
    longest = max(range(25), key=lambda n: int((pretraining_batch(model, data)[0][model.ITEM_SEQ][n] > 0).sum()))
    drawn = Counter()
    for epoch in range(400):
        model.epoch = epoch
        rows, (_, masked) = pretraining_batch(model, data)
        drawn[int(masked[longest])] += 1
    assert len(drawn) == int((rows[model.ITEM_SEQ][longest] > 0).sum()) + 1
    assert chisquare(list(drawn.values())).pvalue > 1e-3
    model.config["last_bias"] = 1.0
    rows, (_, masked) = pretraining_batch(model, data)
    assert torch.equal(masked, rows[model.ITEM_ID])


def test_fine_tuning_and_evaluation_read_the_same_text_for_the_same_prefix(dataset):
    model, data = made("GenRecT5", dataset)
    train = data.parts[0].inter_feat[torch.arange(6)].gather()
    prompts = model.prompt_of(train)
    for row, user, history in zip(prompts.tokens, train[model.USER_ID].tolist(), train[model.ITEM_SEQ].tolist()):
        told = [model.user_texts[user], *(model.index.texts[item] for item in history if item), "MASK"]
        assert " ".join(words(model, row)) == " ".join(told)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_no_stage_sees_or_learns_a_target_of_validation_or_test(dataset, stage):
    """Tokens, ID rows and labels of every training sample, over several epochs."""
    model, data = made("GenRecT5", dataset, train_stage=stage)
    rows = model.training_rows(data.parts[0])
    samples = data.parts[0].inter_feat[torch.arange(len(data.parts[0])) if rows is None else rows].gather()
    held_out = {int(row[model.USER_ID]): set() for row in [data.parts[1].inter_feat[torch.tensor([n])]
                                                          for n in range(25)]}
    for part in data.parts[1:]:
        inter = part.inter_feat[torch.arange(25)]
        for user, item in zip(inter[model.USER_ID].tolist(), inter[model.ITEM_ID].tolist()):
            held_out[user].add(item)
    for epoch in range(3):
        model.epoch = epoch
        if stage == "pretrain":
            prompts, target = model._with_one_masked(samples[model.ITEM_SEQ], samples[model.ITEM_ID],
                                                     samples[model.USER_ID], samples[TARGET_ROW])
        else:
            prompts, target = model.prompt_of(samples), samples[model.ITEM_ID]
        for user, items, item in zip(samples[model.USER_ID].tolist(), prompts.item.tolist(), target.tolist()):
            assert not held_out[user] & {*items, item}


def test_the_oldest_items_go_first_and_user_and_mask_never(dataset):
    model, data = made("GenRecT5", dataset, max_prompt_tokens=24)
    users = data.parts[2].inter_feat[torch.arange(25)].gather()
    prompts = model.prompt_of(users)
    assert int(prompts.lengths.max()) <= model.prompts.max_tokens == 24
    cut = 0
    for row, user, history in zip(range(25), users[model.USER_ID].tolist(), users[model.ITEM_SEQ].tolist()):
        kept = list(dict.fromkeys(item for item in prompts.item[row].tolist() if item))
        history = [item for item in history if item]
        assert kept and kept == history[-len(kept):]
        assert (prompts.user[row] == user).any() and (prompts.tokens[row] == model.prompts.tokens[-1]).sum() == 1
        cut += len(kept) < len(history)
    assert cut


# ----------------------------------------------------------------------------------------------------- embeddings

@pytest.mark.parametrize("llm", LLMS)
def test_zero_tables_are_the_plain_backbone(dataset, llm):
    model, data = made("GenRecT5", dataset, llm=llm)
    prompts = model.prompt_of(data.parts[2].inter_feat[torch.arange(5)])
    answers, _, _ = model.trie.paths(torch.arange(1, 6))
    with torch.no_grad():
        states = model.backbone.forced(prompts, answers[:, :-1])
        core = model.backbone.core
        begin = torch.full_like(answers[:, :1], core.config.decoder_start_token_id)
        logits = core(input_ids=prompts.tokens, attention_mask=prompts.mask.long(),
                      decoder_input_ids=torch.cat([begin, answers[:, :-1]], 1)).logits
    torch.testing.assert_close(model.backbone.logits(states), logits, atol=1e-5, rtol=1e-5)


def test_ids_move_what_is_seen_and_only_theirs_train(dataset):
    model, data = made("GenRecT5", dataset, train_stage="finetune")
    users = data.parts[0].inter_feat[torch.arange(4)].gather()
    model.calculate_loss(users).backward()
    seen = {item for row in users[model.ITEM_SEQ].tolist() for item in row if item}
    touched = set(model.backbone.items.weight.grad.abs().sum(1).nonzero().flatten().tolist())
    assert touched == seen  # the target's row, the mask's and the padding's get nothing
    assert set(model.backbone.users.weight.grad.abs().sum(1).nonzero().flatten().tolist()) == set(
        users[model.USER_ID].tolist())
    with torch.no_grad():
        prompts = model.prompt_of(users)
        before = model.backbone.encode(prompts)
        model.backbone.items.weight[1:] += torch.randn(ITEMS, 128)
        inputs = model.backbone.encoder_inputs(prompts) - model.backbone.core.get_encoder().embed_tokens(prompts.tokens)
        assert not torch.equal(model.backbone.encode(prompts), before)
    for row, items in zip(inputs, prompts.item):  # one vector an item, on all of its tokens
        for item in filter(None, items.unique().tolist()):
            torch.testing.assert_close(row[items == item], model.backbone.items.weight[item].detach().expand(
                int((items == item).sum()), -1), atol=1e-5, rtol=0)


def test_twenty_beams_are_twenty_different_items(dataset):
    model, data = made("GenRecT5", dataset, topk=[5, 20], valid_metric="NDCG@5")
    ranking = model.recommend(data.parts[2].inter_feat[torch.arange(25)], 20)
    assert all(len(set(row)) == 20 and 0 not in row for row in ranking.items.tolist())


def test_user_numbers_do_not_tell_when_a_user_came(dataset):
    model, _ = made("GenRecT5", dataset)
    numbers = np.array([int(text.split("_")[1]) for text in model.user_texts[1:]])
    assert sorted(numbers) == list(range(1, 26)) and abs(np.corrcoef(numbers, np.arange(25))[0, 1]) < 0.6
    again, other_seed = made("GenRecT5", dataset)[0], made("GenRecT5", dataset, seed=5)[0]
    assert again.user_texts == model.user_texts != other_seed.user_texts


# ----------------------------------------------------------------------------------------------------------- runs

@pytest.mark.parametrize("llm", LLMS)
def test_pretrained_weights_arrive_in_fine_tuning(dataset, tmp_path, llm):
    arguments = ["run", "--model=GenRecT5", "--dataset=tiny", f"--config_files={dataset}", f"--llm={llm}",
                 "--epochs=1", "--train_batch_size=16", "--validity_users=4"]
    assert main([*arguments, "--pretrain_epochs=12", f"--output_dir={tmp_path / 'long'}"]) == 0
    assert main([*arguments, "--pretrain_epochs=0", f"--output_dir={tmp_path / 'none'}"]) == 0
    (long,), (none,) = records(tmp_path / "long"), records(tmp_path / "none")
    assert long["status"] == none["status"] == "ok"
    stages = [epoch.get("stage") for epoch in long["curve"]]
    assert stages == ["pretrain"] * 12 + [None]
    assert long["curve"][-1]["loss"] < none["curve"][-1]["loss"]


def test_mistakes_are_one_sentence(dataset):
    for settings, message in (({"train_stage": "mix"}, "train_stage='mix'"), ({"llm": "tiny-llama"}, "seq2seq")):
        with pytest.raises(UserError, match=message):
            GenRecT5.check_config(config_of(dataset, "GenRecT5", gpu_id="", **settings))


def test_rows_know_their_parts():
    rows = Rows(torch.tensor([[1, 2, 0], [3, 0, 0]]), torch.tensor([2, 1]))
    assert replace(rows).rows(torch.tensor([1])).tokens.tolist() == [[3]]
