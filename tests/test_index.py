"""Title index: every item its own spelling, in the same words whatever RecBole's numbering, and nothing lost."""

from __future__ import annotations

import json
import random
import re

import pytest
import torch
from conftest import batch_of
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.index import Material, build_index
from recbole_genrec.index.title import line_break_of

#: Titles as they come: quotes, commas, tabs, other scripts, entities, some that look like our own numbering.
WILD = ['"Quoted", with commas, "twice"', "tab\tinside", "emoji 🧸🎲 teddy", "Tom &amp; Jerry &#39;s &lt;b&gt;",
        "你好 世界",
        "naïve café", "  ", "[2]", "X [2]", "Lego", "Lego City", "Lego City Police", "</s>", "<s> <pad>", "NA", "null",
        " ".join(f"word{n}" for n in range(300)), "'single'", "back\\slash", "a" * 200, "#1 & only", "−½"]


def catalogue_of(titles: list[str], ids: list[str] | None = None) -> Catalogue:
    """A catalogue as it comes from a data set: one line a title, whitespace collapsed, ``item <id>`` for none."""
    ids = ids or [f"B{number:04}" for number in range(len(titles))]
    texts = [" ".join(title.split()) or f"item {identifier}" for title, identifier in zip(titles, ids)]
    return Catalogue(["", *texts], ["[PAD]", *ids], sum(not title.strip() for title in titles))


def byte_level(titles: list[str]):
    return train_tokenizer([*titles, "\n"], 800)


def sentencepiece_like(titles: list[str]):
    """Unigram with a word marker and byte fallback, as LLaMA's and T5's tokenizers have it."""
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0)], 0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    letters = sorted({letter for title in titles for letter in title if letter.isascii()})
    tokenizer.train_from_iterator(titles, trainers.UnigramTrainer(
        vocab_size=600, initial_alphabet=letters, unk_token="<unk>", show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]))
    # Training forgets the byte fallback: build the model again from its pieces.
    pieces = json.loads(tokenizer.to_str())["model"]["vocab"]
    tokenizer.model = models.Unigram([tuple(piece) for piece in pieces], 0, byte_fallback=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def lower_casing(titles: list[str]):
    """Words in lower case without accents or line breaks, as BERT's tokenizer: titles may become equal."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    numbers = [str(number) for number in range(100)]
    tokenizer.train_from_iterator([*titles, *numbers, "[ ]"], trainers.WordLevelTrainer(
        special_tokens=["[UNK]", "[SEP]"], show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[SEP]")


def by_raw_id(catalogue: Catalogue, tokenizer) -> dict[str, tuple[str, list[int]]]:
    index = build_index("title", Material(catalogue, tokenizer))
    return {raw: (index.texts[item], index.spelling(item)) for item, raw in enumerate(catalogue.item_tokens) if item}


def assert_distinct(index) -> None:
    spellings = [tuple(index.spelling(item)) for item in range(1, index.n_items)]
    assert len(set(spellings)) == len(spellings)
    for spelling in spellings:
        assert len(spelling) > 1
        assert spelling[-1] == index.terminator and index.terminator not in spelling[:-1]
    assert index.spelling(0) == []


# ------------------------------------------------------------------------------------------------- equal titles

@pytest.mark.parametrize("titles, numbered, sharing", [
    (["X", "X", "X"], ["X", "X [2]", "X [3]"], 3),
    (["X", "X", "Y", "Y"], ["X", "X [2]", "Y", "Y [2]"], 4),
    (["X", "Y", "Z"], ["X", "Y", "Z"], 0),
    (["X", "X", "X [2]"], None, 3),
    (["X", "X", "X [2]", "X [2]", "X [2] [2]", "X [3]"], None, None),
])
def test_equal_titles_stay_different_items(titles, numbered, sharing):
    index = build_index("title", Material(catalogue_of(titles), byte_level(titles)))
    assert_distinct(index)
    assert len(set(index.texts[1:])) == len(titles)
    assert all(text.startswith(title) for text, title in zip(index.texts[1:], titles))
    if numbered is not None:
        assert sorted(index.texts[1:]) == sorted(numbered)
    if sharing is not None:
        assert index.report["items_sharing_title"] == sharing


def test_titles_that_the_tokenizer_makes_equal_stay_different_items():
    titles = ["Lego City", "LEGO CITY", "lego city", "Légo City", "Duplo"]
    index = build_index("title", Material(catalogue_of(titles), lower_casing(titles)))
    assert_distinct(index)
    assert index.report["items_sharing_title"] == 4
    assert index.texts[5] == "Duplo"
    assert sum(re.search(r" \[\d\]$", text) is None for text in index.texts[1:5]) == 1


@pytest.mark.parametrize("tokenizer", [byte_level, lower_casing])
def test_the_numbering_of_items_does_not_show_in_their_spelling(tokenizer):
    titles = ["X"] * 4 + ["x"] * 2 + ["X [2]", "X [2]", "Y", "y", "Z", " "]
    catalogue, dice = catalogue_of(titles), random.Random(0)
    ids, trained = catalogue.item_tokens[1:], tokenizer(titles)
    expected = by_raw_id(catalogue, trained)
    for _ in range(10):
        order = dice.sample(range(len(titles)), len(titles))
        shuffled = catalogue_of([titles[n] for n in order], [ids[n] for n in order])
        assert by_raw_id(shuffled, trained) == expected


# ------------------------------------------------------------------------------------------- what is spelled

@pytest.mark.parametrize("kind", [byte_level, sentencepiece_like])
def test_every_title_can_be_read_back(kind):
    catalogue = catalogue_of(WILD)
    tokenizer = kind(catalogue.titles[1:])
    index = build_index("title", Material(catalogue, tokenizer))
    assert_distinct(index)
    for item in range(1, index.n_items):
        assert tokenizer.decode(index.spelling(item)[:-1], clean_up_tokenization_spaces=False) == catalogue.titles[item]


def test_nothing_is_cut():
    catalogue = catalogue_of(WILD)
    index = build_index("title", Material(catalogue, byte_level(["only other words"])))
    assert index.report["tokens_max"] == int(index.lengths.max()) > 600
    assert index.report["items"] == len(WILD)


def test_missing_titles_get_a_name_and_are_counted():
    catalogue = catalogue_of(["", "A", "   "], ["B01", "B02", "B03"])
    index = build_index("title", Material(catalogue, byte_level(["A", "item B01"])))
    assert index.texts == ["", "item B01", "A", "item B03"]
    assert index.report["items_without_title"] == 2


# -------------------------------------------------------------------------------------------- the terminator

def test_the_terminator_is_the_line_break_where_there_is_one():
    tokenizer = byte_level(["A"])
    assert tokenizer.decode([line_break_of(tokenizer)]) == "\n"
    tokenizer = sentencepiece_like(WILD)
    assert tokenizer.convert_ids_to_tokens(line_break_of(tokenizer)) == "<0x0A>"
    assert lower_casing(["A"]).convert_ids_to_tokens(line_break_of(lower_casing(["A"]))) == "[SEP]"


def test_a_tokenizer_without_any_terminator_is_refused():
    tokenizer = lower_casing(["A"])
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="end"):
        line_break_of(tokenizer)


# ----------------------------------------------------------------------------------- arrays, trie, fingerprint

def test_nodes_follow_the_trie():
    titles = ["Lego", "Lego City", "Lego City Police", "Lego", "Duplo", "Duplo train"]
    index = build_index("title", Material(catalogue_of(titles), byte_level(titles)))
    for item in range(1, index.n_items):
        begin, end = index.offsets[item:item + 2].tolist()
        _, chosen, _ = index.trie.paths(torch.tensor([item]))
        assert index.nodes[begin:end].tolist() == chosen[0].tolist()
        assert chosen[0].max() == index.trie.leaf[index.trie.rank[item]]
    assert index.lengths.tolist() == [len(index.spelling(item)) for item in range(index.n_items)]
    assert batch_of([index.spelling(1)]).lengths.tolist() == [int(index.lengths[1])]


def test_the_fingerprint_is_that_of_the_spellings():
    titles = ["A", "B", "A"]
    first = build_index("title", Material(catalogue_of(titles), byte_level(titles)))
    again = build_index("title", Material(catalogue_of(titles), byte_level(titles)))
    other = build_index("title", Material(catalogue_of(["A", "B", "C"]), byte_level(titles)))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert re.fullmatch(r"[0-9a-f]{16}", first.fingerprint)
