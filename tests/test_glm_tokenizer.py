"""GLM's tokenizers: special tokens where the published ones have them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_glm_checkpoint import refused
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from recbole_genrec.backbone.glm_checkpoint import (
    SPECIALS,
    glm_special_ids,
    load_glm_tokenizer,
    with_specials,
)

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["t o", "to y", "Ġ toy"]
WORDS = [*BYTES, "to", "toy", "Ġtoy"]
START, END = "<|startofpiece|>", "<|endofpiece|>"


def filled(words: list[str], places: dict[str, int], size: int) -> list[str]:
    """A vocabulary of the true size: some tokens at their places, then the words, then fillers."""
    result: list[str | None] = [None] * size
    for token, place in places.items():
        result[place] = token
    rest = iter([word for word in words if word not in places])
    return [token or next(rest, f"filler{place}") for place, token in enumerate(result)]


def write_byte_pairs(folder, places: dict[str, int], size: int) -> None:
    vocab = {token: place for place, token in enumerate(filled(WORDS, places, size))}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES), encoding="utf-8")


def write_gpt2(folder, size: int = 50257) -> None:
    write_byte_pairs(folder, {"<|endoftext|>": size - 1}, size)


def write_roberta(folder, size: int = 50265) -> None:
    write_byte_pairs(folder, {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<|endoftext|>": 50260,
                              "<mask>": size - 1}, size)


def write_bert(folder, size: int = 30522) -> None:
    tokens = filled(["toy", "##s", "a"], {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}, size)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")


#: writer, ids by role, the other special ids, end of the sequence form, rows of the padded table
TOKENIZERS = {
    "gpt2": (write_gpt2, dict(cls=50259, eos=50256, pad=50256, start=50257, end=50258, entity=50260, sentence=50264,
                              document=50263), {"[SEP]": 50261, "[UNUSED]": 50262, "[sMASK]": 50264}, 50304),
    "roberta": (write_roberta, dict(cls=0, eos=2, pad=2, start=50265, end=50266, entity=50264, sentence=50264,
                                    document=50264), {"<unk>": 3, START: 50265, "<mask>": 50264}, 50304),
    "bert": (write_bert, dict(cls=101, eos=102, pad=0, start=30522, end=30523, entity=103, sentence=103,
                              document=103), {"[UNK]": 100, "[SEP]": 102, END: 30523}, 30592),
}


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    folders = {}
    for kind, (write, *_) in TOKENIZERS.items():
        folders[kind] = tmp_path_factory.mktemp(kind)
        write(folders[kind])
    return folders


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_special_tokens_have_the_published_ids(vocabularies, tmp_path, kind):
    _, roles, others, rows = TOKENIZERS[kind]
    tokenizer = load_glm_tokenizer(str(vocabularies[kind]))
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, load_glm_tokenizer(str(tmp_path))):
        assert glm_special_ids(each) == roles
        assert {token: each.convert_tokens_to_ids(token) for token in others} == others
        assert (each.cls_token_id, each.pad_token_id, each.eos_token_id, each.mask_token_id) == (
            roles["cls"], roles["pad"], roles["eos"], roles["entity"])
        mask = each.mask_token
        # [CLS] text eos; the blank before a mask is the mask's
        assert each(f"toy {mask} toy").input_ids == each(f"toy{mask} toy").input_ids
        ids = each(f"toy {mask} toy").input_ids
        assert (ids[0], ids[2], ids[-1], len(ids)) == (roles["cls"], roles["entity"], roles["eos"], 5)
        assert each.decode(ids, skip_special_tokens=True).split() == ["toy", "toy"]
        assert each.encode(f"{START}{END}", add_special_tokens=False) == [roles["start"], roles["end"]]
        # truncated from the left
        assert each("toy toy toy a", truncation=True, max_length=3).input_ids[1] == each("toy a").input_ids[-2]
        assert len(each) <= rows


def test_all_three_masks_swallow_the_blank_before_them(vocabularies, tmp_path):
    tokenizer = load_glm_tokenizer(str(vocabularies["gpt2"]))
    tokenizer.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in raw["added_tokens"]:  # a file whose masks do not
        token["lstrip"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    for each in (tokenizer, load_glm_tokenizer(str(tmp_path))):
        for mask in ("[MASK]", "[sMASK]", "[gMASK]"):
            assert len(each(f"toy {mask} toy", add_special_tokens=False).input_ids) == 3


@given(text=st.text(max_size=30))
@settings(max_examples=30)
def test_byte_pairs_spell_every_text(text, byte_pairs):
    ids = byte_pairs(text, add_special_tokens=False).input_ids
    assert byte_pairs.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.fixture(scope="module")
def byte_pairs(vocabularies):
    return load_glm_tokenizer(str(vocabularies["gpt2"]))


def test_bert_lowers_case_and_splits_words(vocabularies):
    tokenizer = load_glm_tokenizer(str(vocabularies["bert"]))
    assert tokenizer.tokenize("A TOYS, \u00e0") == ["a", "toy", "##s", "[UNK]", "a"]


@pytest.mark.parametrize("kind, size", [("gpt2", 50256), ("gpt2", 50300), ("roberta", 50266), ("bert", 30600)])
def test_special_tokens_at_other_ids_are_refused(tmp_path, kind, size):
    TOKENIZERS[kind][0](tmp_path, size)
    refused(tmp_path, r"has id \d+ and must have \d+", load_glm_tokenizer)


def test_a_saved_tokenizer_with_other_ids_is_refused(vocabularies, tmp_path):
    load_glm_tokenizer(str(vocabularies["gpt2"])).save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in raw["added_tokens"]:  # the masks of a sentence and of a document change places
        token["content"] = {"[sMASK]": "[gMASK]", "[gMASK]": "[sMASK]"}.get(token["content"], token["content"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    refused(tmp_path, r"'\[gMASK\]' has id 50264 and must have 50263", load_glm_tokenizer)


def test_folders_without_a_known_tokenizer_are_refused(tmp_path):
    refused(tmp_path, "there is no tokenizer", load_glm_tokenizer)
    (tmp_path / "cog-pretrain.model").write_bytes(b"")
    refused(tmp_path, "Chinese.*not supported", load_glm_tokenizer)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    refused(tmp_path, "none of GLM's", load_glm_tokenizer)
    for content in ("{", "{}", "[]"):
        (tmp_path / "tokenizer.json").write_text(content)
        refused(tmp_path, "cannot be read", load_glm_tokenizer)


def test_a_scratch_tokenizer_has_the_special_tokens_first(tmp_path):
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.train_from_iterator(["a toy"], trainers.BpeTrainer(special_tokens=list(SPECIALS), show_progress=False,
                                                           initial_alphabet=BYTES))
    tokenizer = with_specials(raw)
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, load_glm_tokenizer(str(tmp_path))):
        assert glm_special_ids(each) == dict(cls=3, eos=0, pad=0, start=1, end=2, entity=4, sentence=8, document=7)
        assert each("[gMASK]").input_ids == [3, 7, 0]
