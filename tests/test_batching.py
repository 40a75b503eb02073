"""Decoding in micro-batches: the same lists whatever their size, and fewer users at a time when memory runs out."""

from __future__ import annotations

import logging

import pytest
import torch
from conftest import batch_of, random_prompts, random_spellings, start, tiny_model, trie_of
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from recbole_genrec.backbone import head as head_module
from recbole_genrec.backbone.head import pick
from recbole_genrec.decoding import batching
from recbole_genrec.decoding.batching import in_batches, users_that_fit
from recbole_genrec.decoding.beam import beam_search

PROMPTS = random_prompts(13, 6)
MODEL, TRIE = tiny_model("llama"), trie_of(random_spellings(200, 6))


def decode(rows: torch.Tensor):
    return beam_search(start(MODEL, [PROMPTS[row] for row in rows.tolist()]), TRIE, 5, 10, "trie")


@pytest.mark.parametrize("size", [1, 4, 13, 100])
def test_lists_do_not_depend_on_the_size(size):
    whole = decode(torch.arange(13))
    found = in_batches(batch_of(PROMPTS).lengths, 5, size, decode)
    assert found.items.tolist() == whole.items.tolist()
    torch.testing.assert_close(found.scores, whole.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(
    "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")])
def test_out_of_memory_halves_the_users_and_loses_none(error, caplog):
    tried = []

    def short_of_memory(rows):
        tried.append(len(rows))
        if len(rows) > 3:
            raise error
        return decode(rows)

    with caplog.at_level(logging.WARNING, logger="recbole_genrec"):
        found = in_batches(batch_of(PROMPTS).lengths, 5, 13, short_of_memory)
    assert found.items.tolist() == decode(torch.arange(13)).items.tolist()
    assert tried == [13, 1, 6, 3, 3, 3, 3]
    assert [record.getMessage() for record in caplog.records] == [
        f"warning: out of memory while decoding {users} users at a time; going on with {users // 2}"
        for users in (13, 6)]


def test_other_errors_and_too_little_memory_for_one_user_are_raised():
    def fail(message):
        def work(rows):
            raise RuntimeError(message)
        return work

    with pytest.raises(RuntimeError, match="shapes"):
        in_batches(batch_of(PROMPTS).lengths, 5, 4, fail("shapes do not match"))
    with pytest.raises(RuntimeError, match="not enough memory"):
        in_batches(batch_of(PROMPTS).lengths, 5, 4, fail("not enough memory: you tried to allocate 9 bytes"))


def test_nobody_gets_nothing():
    assert in_batches(torch.zeros(0, dtype=torch.int64), 5, 4, decode).items.shape == (0, 5)


def test_as_many_users_as_memory_holds(monkeypatch):
    cpu = torch.device("cpu")
    assert users_that_fit(1, 30, cpu) == batching.MOST_USERS["cpu"]
    assert users_that_fit(1 << 50, 30, cpu) == 1
    monkeypatch.setattr(batching, "MOST_USERS", {"cpu": 10**9})
    assert users_that_fit(2048, 30, cpu) >= 2 * users_that_fit(8192, 30, cpu) > 2


# ------------------------------------------------------------------------------------------- single logits

@st.composite
def wanted(draw) -> tuple[int, list[tuple[int, int]]]:
    rows = draw(st.integers(1, 9))
    pairs = draw(st.sets(st.tuples(st.integers(0, rows - 1), st.integers(0, 39)), min_size=1, max_size=60))
    return rows, sorted(pairs)


@given(wanted(), st.booleans(), st.sampled_from([1, 1000]), st.sampled_from([100, 1 << 22]),
       st.sampled_from([torch.float32, torch.bfloat16]))
def test_single_logits_are_those_of_the_whole_head(case, bias, one_by_one, chunk, dtype):
    rows, pairs = case
    torch.manual_seed(rows)
    head = nn.Linear(16, 40, bias=bias).to(dtype)
    hidden = torch.randn(rows, 16).to(dtype)
    row, token = torch.tensor(pairs).T.contiguous()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(head_module, "ONE_BY_ONE", one_by_one)
        patch.setattr(head_module, "CHUNK", chunk)
        found = pick(head, lambda logits: logits / 3, 40, hidden, row, token)
        expected = head(hidden)[row, token] / 3
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found.float(), expected.float(), atol=tolerance, rtol=tolerance)
