"""P5: prompts, whole words, sets of prompts, thinned samples, and rows for what was not seen in training."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest
import torch
from data_helpers import config_of, made, random_interactions, records, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.cli import main
from recbole_genrec.data.loading import Data
from recbole_genrec.data.windows import TARGET_ROW
from recbole_genrec.encoder_texts.whole_words import WholeWordTexts
from recbole_genrec.errors import UserError
from recbole_genrec.index import ItemIndex
from recbole_genrec.model.sequential_recommender.p5 import P5
from recbole_genrec.template import Template

LLMS = ["tiny-t5", "tiny-bart"]
USERS, ITEMS = 25, 30


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(USERS, ITEMS, 6, 11),
                         MAX_ITEM_LIST_LENGTH=12)


# ---------------------------------------------------------------------------------------------------------- texts

WORDS = ["one", "two words", "Four words are here", "a", "bc de"]
TOKENIZER = train_tokenizer([*WORDS, "After the items of user_1 , name"], 280)
TEMPLATES = ["{history}{user}", "After{history} , name it for{user} .", "{user} had{history}",
             "Go  on :{user} with{history} ?"]


def texts_of(titles: list[str], users: list[str], templates: list[str], separator: str, most: int) -> WholeWordTexts:
    spellings = TOKENIZER([f" {title}" for title in titles], add_special_tokens=False)["input_ids"]
    index = ItemIndex.from_spellings(spellings, ["", *titles], TOKENIZER.eos_token_id, {})
    users = [[], *TOKENIZER([f" {user}" for user in users], add_special_tokens=False)["input_ids"]]
    parsed = [Template.parse(template, {}, {"user", "history"}) for template in templates]
    return WholeWordTexts(index, users, parsed, separator, TOKENIZER, TOKENIZER.eos_token_id, most)


@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(1, len(WORDS)), max_size=6),
                          st.integers(0, len(TEMPLATES) - 1)), min_size=1, max_size=5),
       st.sampled_from([" ,", " ->", " then", ""]), st.integers(1, 60))
@settings(max_examples=120, deadline=None)
def test_a_prompt_is_its_template_filled_in_and_words_are_those_of_the_text(rows, separator, most):
    """Against a builder that goes through one row at a time and knows strings only."""
    users = ["user_7", "user_12"]
    texts = texts_of(WORDS, users, TEMPLATES, separator, most)
    width = max(len(items) for _, items, _ in rows)
    history = torch.tensor([items + [0] * (width - len(items)) for _, items, _ in rows]).long().view(len(rows), width)
    batch = texts(torch.tensor([user for user, _, _ in rows]), history, torch.tensor([kind for _, _, kind in rows]))
    assert batch.tokens.size(1) == int(batch.lengths.max()) <= texts.max_tokens
    for row, (user, items, kind) in enumerate(rows):
        for dropped in range(len(items) + 1):  # the longest history that fits, oldest items first to go
            expected = by_hand(users, user, items[dropped:], TEMPLATES[kind], separator)
            if sum(len(tokens) for tokens, _ in expected) + 1 <= texts.max_tokens:
                break
        tokens = [token for piece, _ in expected for token in piece] + [TOKENIZER.eos_token_id]
        words = [word for _, piece in expected for word in piece] + [0]
        length = int(batch.lengths[row])
        assert batch.tokens[row, :length].tolist() == tokens and batch.word[row, :length].tolist() == words
        assert not batch.word[row, length:].any()


def by_hand(users, user, items, template, separator) -> list[tuple[list[int], list[int]]]:
    """Tokens and words of each piece of a prompt."""
    pieces, word = [], 0
    for is_slot, content in Template.parse(template, {}, {"user", "history"}).pieces:
        if not is_slot:
            parts = [(content.rstrip(" "), False)] if content.strip() else []
        elif content == "user":
            parts = [(f" {users[user - 1]}", True)] if user else []
        else:
            parts = []
            for place, item in enumerate(items):
                parts += ([(separator, False)] if place and separator else []) + [(f" {WORDS[item - 1]}", True)]
        for text, whole in parts:
            tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"]
            if whole:
                pieces.append((tokens, [word + 1] * len(tokens)))
                word += 1
                continue
            # The tokenizer splits at blanks alone, and a blank goes with the word behind it, if there is one.
            begun = [TOKENIZER.decode(tokens[:place + 1]) for place in range(len(tokens))]
            numbers = [min(len(part.split()) + part.endswith(" "), len(text.split())) for part in begun]
            pieces.append((tokens, [word + number for number in numbers]))
            word += len(text.split())
    return pieces


def test_pieces_of_one_id_share_a_whole_word_and_positions_tell_ids_apart(dataset):
    model, data = made("P5", dataset)
    prompts = model.prompt_of(data.parts[2].inter_feat[torch.arange(5)].gather())
    with torch.no_grad():
        added = model.backbone.encoder_inputs(prompts) - model.backbone.core.get_encoder().embed_tokens(prompts.tokens)
    torch.testing.assert_close(added, model.backbone.words.weight[prompts.word], atol=1e-6, rtol=0)
    assert not model.backbone.words.weight[0].any()  # the end of the text and the padding belong to no word
    assert prompts.word.max() < len(model.backbone.words.weight)


# ---------------------------------------------------------------------------------------------------------- samples

def test_training_draws_every_seen_prompt_and_never_an_unseen_one(dataset):
    model, data = made("P5", dataset)
    batch, given = data.parts[0].inter_feat[torch.arange(40)].gather(), []
    builder = model.prompts

    def watched(user, items, template):
        given.append(template)
        return builder(user, items, template)

    model.prompts = watched
    for model.epoch in range(4):
        model.calculate_loss(batch)
    assert set(torch.cat(given).tolist()) == set(range(len(model.wording.seen)))
    assert not torch.equal(given[0], given[1])
    model.epoch = 0
    model.calculate_loss(batch)
    assert torch.equal(given[0], given[-1])  # the same epoch draws the same


@pytest.mark.parametrize("name", ["P5", "GenRecT5"])
def test_thinned_samples_reach_every_training_item_and_no_other(dataset, name):
    config = config_of(dataset, name, gpu_id="", precision="fp32", target_stride=3, train_stage="finetune")
    data = Data.load(config)
    model = config.model_class(config, data.parts[0])
    rows = model.training_rows(data.parts[0])
    assert len(data.parts[0]) / 3 <= len(rows) < len(data.parts[0]) / 2
    batch, reached = data.parts[0].inter_feat[rows].gather(), set()
    for model.epoch in range(60):
        row, history, target = model.drawn(batch)
        assert torch.equal(target, data.dataset.sequences.item[row])
        for number, items in zip(row.tolist(), history.tolist()):
            start = int(data.dataset.sequences.start[number])
            assert [item for item in items if item] == data.dataset.sequences.item[start:number].tolist()[-12:]
        reached |= set(row.tolist())
    assert reached == set(data.parts[0].inter_feat[TARGET_ROW].tolist())


# ------------------------------------------------------------------------------------------------------------- runs

@pytest.mark.parametrize("llm", LLMS)
def test_a_run_has_a_row_for_each_set_of_prompts(dataset, tmp_path, llm):
    assert main(["run", "--model=P5", "--dataset=tiny", f"--config_files={dataset}", f"--llm={llm}", "--epochs=2",
                 "--train_batch_size=16", "--validity_users=4", f"--output_dir={tmp_path}"]) == 0
    record, = records(tmp_path)
    assert record["prompts"] == "seen" and record["item_index"] == "shuffled_id" and not record["leaky"]
    with open(tmp_path / "leaderboard.csv", newline="") as file:
        seen, unseen = csv.DictReader(file)
    assert (seen["prompts"], unseen["prompts"]) == ("seen", "unseen") and seen["run_id"] == unseen["run_id"]
    assert seen["valid_rate"] and seen["hit@10_unmasked"] and not unseen["valid_rate"] + unseen["hit@10_unmasked"]
    folder = tmp_path / "runs" / record["run_id"]
    for row, name in ((seen, "per_user.parquet"), (unseen, "per_user.unseen.parquet")):
        users = pd.read_parquet(folder / name)
        hits = users["rank"].le(10).fillna(False)
        assert len(hits) == USERS and float(row["hit@10"]) == pytest.approx(hits.mean(), abs=1e-8)


def test_the_test_without_masking_can_be_left_out(dataset, tmp_path):
    assert main(["run", "--model=P5", "--dataset=tiny", f"--config_files={dataset}", "--epochs=1", "--prompt_eval=seen",
                 "--validity_users=0", "--test_unmasked=false", f"--output_dir={tmp_path}"]) == 0
    record, = records(tmp_path)
    assert "hit@10" in record and not any("unmasked" in key for key in record)


def test_unseen_prompts_are_other_prompts_of_the_same_model(dataset):
    model, data = made("P5", dataset)
    users = data.parts[2].inter_feat[torch.arange(5)].gather()
    seen = model.prompt_of(users)
    assert model.prompt_sets == ("seen", "unseen") and model.prompt_set == "seen"
    model.prompt_set = "unseen"
    unseen = model.prompt_of(users)
    texts = [model.tokenizer.decode(prompts.tokens[0], skip_special_tokens=True) for prompts in (seen, unseen)]
    assert texts[0].startswith("Which of the") and texts[1].startswith("After")


@pytest.mark.parametrize("index", ["title", "shuffled_id", "semantic", "collaborative", "sequential"])
def test_it_can_be_run_with_every_index(dataset, index):
    model, data = made("P5", dataset, item_index=index)
    ranking = model.recommend(data.parts[2].inter_feat[torch.arange(5)], 10)
    assert all(len(set(row)) == 10 for row in ranking.items.tolist())
    assert model.describe()["leaky"] == (index == "sequential")


@pytest.mark.parametrize("settings, message", [
    ({"llm": "tiny-llama"}, "seq2seq"), ({"prompt": "recsysllm"}, "another model's form"),
    ({"prompt": "p6"}, "unknown prompt 'p6'"), ({"prompt_eval": "both of them"}, "prompt_eval='both of them'"),
])
def test_mistakes_are_one_sentence(dataset, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        P5.check_config(config_of(dataset, "P5", gpu_id="", **settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, table", [("P5", "words.weight"), ("GenRecT5", "items.weight")])
def test_a_model_of_ours_brings_its_tables_along_but_not_those_of_its_catalogue(dataset, tmp_path, name, table):
    model, _ = made(name, dataset)
    with torch.no_grad():
        model.backbone.get_parameter(table).normal_()
    model.save_pretrained(tmp_path)
    other, _ = made(name, dataset, llm=str(tmp_path))
    assert other.pretrained
    taken = torch.equal(other.backbone.get_parameter(table), model.backbone.get_parameter(table))
    assert taken is (name == "P5")


def test_a_scratch_model_taken_for_a_backbone_begins_without_its_items(dataset, tmp_path):
    model, _ = made("GenRec", dataset, item_embedding=True)
    model.save_pretrained(tmp_path)
    other, _ = made("GenRec", dataset, item_embedding=True, llm=str(tmp_path))
    assert other.pretrained and model.backbone.items.norm.weight.all() and not other.backbone.items.norm.weight.any()
