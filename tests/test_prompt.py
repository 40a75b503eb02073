"""Prompts: the tokens of prefix, items and suffix side by side; the oldest item goes first; the target stays out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.errors import UserError
from recbole_genrec.index import Material, build_index
from recbole_genrec.prompt import PromptBuilder, PromptTemplate
from recbole_genrec.settings import property_file, property_names, read_yaml

TITLES = ["Lego", "Lego City", "Uno, the game", 'The "Best" of', "emoji 🧸", "A very long title with many words in it",
          "Lego", "Duplo", "Ludo", "Go"]
PREFIXES = ["Guess the next one.\n", "What follows?\nHistory:\n", "Next:\n"]
TOKENIZER = train_tokenizer([*TITLES, *PREFIXES, "\n"], 400)
CATALOGUE = Catalogue(["", *TITLES], [str(n) for n in range(len(TITLES) + 1)], 0)
INDEX = build_index("title", Material(CATALOGUE, TOKENIZER))
ITEMS = st.integers(1, len(TITLES))


def builder(max_tokens: int = 10_000, suffix: str = "\nAnswer:\n") -> PromptBuilder:
    return PromptBuilder(INDEX, TOKENIZER, PromptTemplate(PREFIXES, suffix, "x"), max_tokens)


def encode(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def by_hand(history: list[int], limit: int, suffix: str, target: int | None = None, prefix: int = 0) -> list[int]:
    """One row in plain Python."""
    head, tail = [TOKENIZER.bos_token_id, *encode(PREFIXES[prefix])], encode(suffix)
    items = [INDEX.spelling(item) for item in history if item]
    while sum(map(len, items)) + len(head) + len(tail) > limit:
        items.pop(0)
    answer = [] if target is None else INDEX.spelling(target)
    return [*head, *(token for item in items for token in item), *tail, *answer]


def rows(batch) -> list[list[int]]:
    return [row[:length] for row, length in zip(batch.tokens.tolist(), batch.lengths.tolist())]


@st.composite
def histories(draw) -> torch.Tensor:
    """``[B, L]`` items at the left, zeros after them, as RecBole lays them out (an empty history too)."""
    longest = draw(st.integers(1, 8))
    chosen = draw(st.lists(st.lists(ITEMS, max_size=longest), min_size=1, max_size=5))
    return torch.tensor([row + [0] * (longest - len(row)) for row in chosen])


@given(histories(), st.data(), st.integers(1, 120), st.sampled_from(["", "\nAnswer:\n"]))
@settings(max_examples=150, deadline=None)
def test_rows_are_the_pieces_side_by_side(history, data, limit, suffix):
    build = builder(limit, suffix)
    targets = data.draw(st.lists(ITEMS, min_size=len(history), max_size=len(history)))
    expected = [by_hand(row, build.max_tokens, suffix) for row in history.tolist()]
    assert rows(build(history)) == expected
    with_target = build(history, torch.tensor(targets))
    # The target comes after the same prompt, whole.
    assert rows(with_target) == [row + INDEX.spelling(target) for row, target in zip(expected, targets)]
    assert with_target.mask.sum(1).tolist() == with_target.lengths.tolist()
    assert (with_target.tokens[~with_target.mask] == 0).all()


@given(histories(), st.integers(1, 120))
@settings(max_examples=100, deadline=None)
def test_segments_and_nodes_say_where_a_token_came_from(history, limit):
    build = builder(limit)
    target = torch.full((len(history),), 3)
    batch, width = build(history, target), history.size(1)
    for row in range(len(history)):
        tokens, segment = batch.tokens[row], batch.segment[row][batch.mask[row]]
        assert (segment.diff() >= 0).all()
        for column, item in enumerate(history[row].tolist(), start=1):
            part = tokens[: len(segment)][segment == column].tolist()
            assert part in ([], INDEX.spelling(item))  # an item stands whole or not at all
        kept = [bool((segment == column).any()) for column, item in enumerate(history[row].tolist(), 1) if item]
        assert kept == sorted(kept)                    # the oldest are dropped first
        assert not kept or kept[-1]                    # the newest is always there
        assert tokens[: len(segment)][segment == width + 2].tolist() == INDEX.spelling(3)
        node = batch.node[row][batch.mask[row]]
        words = (segment == 0) | (segment == width + 1)
        assert (node[words] == 0).all()
        chosen = node > 0
        assert torch.equal(INDEX.trie.token[node[chosen]].long(), tokens[: len(segment)][chosen])
        titles = sum(bool((segment == column).any()) for column in {*segment[~words].tolist()})
        assert int(INDEX.trie.is_leaf(node[chosen]).sum()) == titles  # each title's last choice is its leaf
    prompt = build(history)
    assert not (prompt.segment > width + 1).any()      # no segment of a target
    assert int(prompt.lengths.max()) <= build.max_tokens


def test_the_longest_title_fits_whatever_the_limit():
    build, longest = builder(1), int(INDEX.lengths.argmax())
    assert build.max_tokens > int(INDEX.lengths[longest])
    assert rows(build(torch.tensor([[2, longest]])))[0] == by_hand([longest], 10_000, "\nAnswer:\n")


def test_an_item_with_the_title_of_another_keeps_its_own_spelling():
    assert TITLES[0] == TITLES[6]
    one, other = rows(builder()(torch.tensor([[1], [7]])))
    assert one != other


def test_the_instruction_is_the_first_one_unless_asked():
    history = torch.tensor([[1, 2, 0]] * 50)
    assert rows(builder()(history)) == [by_hand([1, 2], 10_000, "\nAnswer:\n")] * 50


def test_random_instructions_are_ours_and_reproducible():
    history = torch.tensor([[1, 2, 0]] * 50)
    torch.manual_seed(7)
    drawn = rows(builder()(history, random_instruction=True))
    expected = [by_hand([1, 2], 10_000, "\nAnswer:\n", prefix=prefix) for prefix in range(len(PREFIXES))]
    assert {tuple(row) for row in drawn} == {tuple(row) for row in expected}
    torch.manual_seed(7)
    assert rows(builder()(history, random_instruction=True)) == drawn
    torch.manual_seed(8)
    assert rows(builder()(history, random_instruction=True)) != drawn


# ------------------------------------------------------------------------------------------------ the wording

def test_the_shipped_prompt_is_worded_for_the_domain():
    films, other = (PromptTemplate.load("next_item", domain, with_suffix=True) for domain in ("movies", None))
    assert "movies" in films.prefixes[0] and "movies" not in other.prefixes[0]
    assert len(set(films.prefixes)) == len(films.prefixes) > 1
    assert not any("{" in text for text in [*films.prefixes, films.suffix])
    assert films.suffix and not PromptTemplate.load("next_item", "movies", with_suffix=False).suffix
    assert films.fingerprint != other.fingerprint
    assert films.fingerprint == PromptTemplate.load("next_item", "movies", with_suffix=True).fingerprint


@pytest.mark.parametrize("name", property_names("dataset"))
def test_every_shipped_data_set_has_words_of_its_own(name):
    domain = read_yaml(property_file("dataset", name))["about"]["domain"]
    own, other = (PromptTemplate.load("next_item", domain, with_suffix=True) for domain in (domain, None))
    assert own.fingerprint != other.fingerprint


def test_a_prompt_with_domains_of_its_own_has_those_alone(tmp_path):
    (tmp_path / "mine.yaml").write_text("{instructions: ['{noun}?'], prefix: '{instruction}', suffix: '', "
                                        "domains: {default: {noun: things}}}")
    assert PromptTemplate.load(str(tmp_path / "mine.yaml"), "movies", with_suffix=True).prefixes == ["things?"]


@pytest.mark.parametrize("name, hint", [("next_itm", "did you mean 'next_item'"), ("zzz", "next_item")])
def test_an_unknown_prompt_is_refused_by_name(name, hint):
    with pytest.raises(UserError, match=hint) as caught:
        PromptTemplate.load(name, None, True)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@given(histories(), st.data(), st.integers(20, 120))
@settings(max_examples=100, deadline=None)
def test_a_branch_sees_what_a_row_of_its_own_would_hold(history, data, limit):
    """Its tokens, their order and their positions are those of the plain row over the items before its target."""
    history[:, 0] = torch.where(history[:, 0] == 0, 1, history[:, 0])
    build = builder(limit)
    targets = torch.tensor(data.draw(st.lists(ITEMS, min_size=len(history), max_size=len(history))))
    batch = build.branched(history, targets)
    visible, position = batch.visible & batch.mask.unsqueeze(1), batch.position
    kept = build(history)
    for row, items in enumerate(history.tolist()):
        items = [item for item in items if item]
        whole = len(set(kept.segment[row][kept.mask[row]].tolist()) - {0, history.size(1) + 1})
        items = [*items[len(items) - whole:], int(targets[row])]  # the oldest go where the prompt is too long
        branches = [branch for branch in dict.fromkeys(batch.branch[row].tolist()) if branch]
        assert len(branches) == len(items) - 1
        for place, branch in enumerate(branches, 1):
            last = int((batch.branch[row] == branch).nonzero()[-1])
            seen = visible[row, last].nonzero().flatten()
            order = position[row, seen].argsort()
            assert position[row, seen][order].tolist() == list(range(len(seen)))
            assert batch.tokens[row, seen][order].tolist() == by_hand(items[:place], 10**6, "\nAnswer:\n", items[place])
        for token in range(int(batch.lengths[row])):  # nothing sees what comes after it
            assert (position[row][visible[row, token]] <= position[row, token]).all()
