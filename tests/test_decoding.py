"""Decoding on the trie against Hugging Face's own beam search and against scoring every item one by one."""

from __future__ import annotations

import pytest
import torch
from conftest import END, random_prompts, random_spellings, start, tiny_model, trie_of

from recbole_genrec.decoding import best_first as search
from recbole_genrec.decoding import exact
from recbole_genrec.decoding.beam import beam_search
from recbole_genrec.decoding.best_first import best_first
from recbole_genrec.decoding.exact import exact_top_k, score_catalogue, score_items

KINDS = ["llama", "gpt2", "qwen2", "t5", "bart"]
NEVER = -torch.inf


@torch.no_grad()
def by_generate(model, prompts, spellings, width: int) -> tuple[list[list[int]], list[list[float]]]:
    """What a user of ``generate`` gets: lists of items and scores of ``width`` beams under a prefix callback."""
    allowed: dict[tuple[int, ...], set[int]] = {}
    for spelling in spellings:
        for length, token in enumerate(spelling):
            allowed.setdefault(tuple(spelling[:length]), set()).add(token)
    allowed = {prefix: sorted(tokens) for prefix, tokens in allowed.items()}
    longest = max(map(len, prompts))
    padding = [[0] * (longest - len(prompt)) for prompt in prompts]
    if model.config.is_encoder_decoder:  # BART counts its positions from the left, padding or not
        tokens = torch.tensor([prompt + rest for prompt, rest in zip(prompts, padding)])
    else:
        tokens = torch.tensor([rest + prompt for prompt, rest in zip(prompts, padding)])
    mask = (tokens > 0).long()
    begin = 1 if model.config.is_encoder_decoder else longest
    output = model.generate(
        input_ids=tokens, attention_mask=mask, num_beams=width, num_return_sequences=width, do_sample=False,
        length_penalty=0.0, early_stopping="never", max_new_tokens=max(map(len, spellings)), eos_token_id=END,
        pad_token_id=0, return_dict_in_generate=True, output_scores=True,
        # A finished beam is asked once more before it is dropped.
        prefix_allowed_tokens_fn=lambda _, row: allowed.get(tuple(row[begin:].tolist()), [END]))
    item_of = {tuple(spelling): item for item, spelling in enumerate(spellings, start=1)}
    items = [item_of[tuple(row[: row.index(END) + 1])] for row in output.sequences[:, begin:].tolist()]
    shape = (len(prompts), width)
    return (torch.tensor(items).view(shape).tolist(), output.sequences_scores.view(shape).tolist())


@torch.no_grad()
def by_hand(model, prompt: list[int], spellings, norm: str) -> torch.Tensor:
    """``[N]`` log-probability of each item: one plain forward pass over prompt and item, no cache, no batch."""
    scores = []
    for spelling in spellings:
        if model.config.is_encoder_decoder:
            logits = model(torch.tensor([prompt]), decoder_input_ids=torch.tensor(
                [[model.config.decoder_start_token_id, *spelling[:-1]]])).logits[0]
        else:
            logits = model(torch.tensor([prompt + spelling]), use_cache=False).logits[0, len(prompt) - 1:]
        total = 0.0
        for token, place, step in zip(spelling, range(len(spelling)), logits.double()):
            if norm == "trie":
                siblings = {other[place] for other in spellings
                            if other[:place] == spelling[:place] and len(other) > place}
                total += float(step[token] - step[sorted(siblings)].logsumexp(0))
            else:
                total += float(step.log_softmax(-1)[token])
        scores.append(total)
    return torch.tensor(scores)


def same(left: torch.Tensor, right: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(left.double(), right.double(), atol=tolerance, rtol=0)


# --------------------------------------------------------------------------------------------- Hugging Face's beam

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count, seed", [(300, 0), (600, 1)])
def test_beam_search_gives_the_lists_of_generate(kind, count, seed):
    model, spellings = tiny_model(kind, seed=seed), random_spellings(count, seed)
    prompts = random_prompts(9, seed)
    items, scores = by_generate(model, prompts, spellings, width=20)
    ranking = beam_search(start(model, prompts), trie_of(spellings), k=10, width=20)
    assert ranking.items.tolist() == [row[:10] for row in items]
    same(ranking.scores, torch.tensor([row[:10] for row in scores]))


@pytest.mark.parametrize("width", [2, 3, 20])
def test_every_finished_beam_is_that_of_generate(width):
    model, spellings, prompts = tiny_model("llama", seed=3), random_spellings(400, 3), random_prompts(6, 3)
    items, scores = by_generate(model, prompts, spellings, width)
    ranking = beam_search(start(model, prompts), trie_of(spellings), k=width, width=width)
    assert ranking.items.tolist() == items
    same(ranking.scores, torch.tensor(scores))


# --------------------------------------------------------------------------------------------- the exact ranking

@pytest.mark.parametrize("norm", ["full", "trie"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_beam_and_exact_scoring_equal_brute_force(kind, norm):
    model, spellings, prompts = tiny_model(kind), random_spellings(60, 5), random_prompts(4, 5)
    trie = trie_of(spellings)
    truth = torch.stack([by_hand(model, prompt, spellings, norm) for prompt in prompts])
    every = score_catalogue(start(model, prompts), trie, norm)
    same(every[:, 1:], truth)
    assert (every[:, 0] == NEVER).all()
    best, place = truth.topk(10)
    for ranking in (beam_search(start(model, prompts), trie, 10, 60, norm),
                    exact_top_k(start(model, prompts), trie, 10, norm),
                    best_first(start(model, prompts), trie, 10, norm)):
        assert ranking.items.tolist() == (place + 1).tolist()
        same(ranking.scores, best)
        assert ranking.exact.all()


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_over_the_trie_add_up_to_one(kind):
    scores = score_catalogue(start(tiny_model(kind), random_prompts(5)), trie_of(random_spellings(250)), "trie")
    same(scores.exp().sum(1), torch.ones(5))


def test_exact_scoring_does_not_depend_on_its_slices(monkeypatch):
    model, trie, prompts = tiny_model("llama"), trie_of(random_spellings(150)), random_prompts(3)
    for norm in ("full", "trie"):
        whole = score_catalogue(start(model, prompts), trie, norm)
        for nodes in (1, 7, 40):
            monkeypatch.setattr(exact, "TOKENS_PER_PASS", nodes)
            same(score_catalogue(start(model, prompts), trie, norm)[:, 1:], whole[:, 1:])
        monkeypatch.undo()


@pytest.mark.parametrize("norm", ["full", "trie"])
@pytest.mark.parametrize("kind", KINDS)
def test_given_items_are_scored_as_in_the_catalogue(kind, norm):
    model, spellings, prompts = tiny_model(kind), random_spellings(80), random_prompts(12)
    trie = trie_of(spellings)
    every = score_catalogue(start(model, prompts), trie, norm)
    for count in (1, 7):  # candidates are branches that do not see each other; one item may stand there twice
        items = torch.randint(1, 81, (12, count), generator=torch.Generator().manual_seed(0))
        same(score_items(start(model, prompts), trie, items, norm), every.gather(1, items))


# --------------------------------------------------------------------------------------------- best-first search

@pytest.mark.parametrize("norm", ["full", "trie"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 5, 32])
def test_best_first_finds_the_best_of_the_whole_catalogue(kind, norm, tokens, monkeypatch):
    monkeypatch.setattr(search, "TOKENS_PER_PASS", tokens)
    model, trie, prompts = tiny_model(kind, seed=1), trie_of(random_spellings(800, 1)), random_prompts(9, 1)
    truth = exact_top_k(start(model, prompts), trie, 20, norm)
    found = best_first(start(model, prompts), trie, 20, norm)
    assert found.items.tolist() == truth.items.tolist() and found.exact.all()
    same(found.scores, truth.scores)


@pytest.mark.parametrize("norm", ["full", "trie"])
def test_a_list_is_called_exact_only_if_it_is(norm, monkeypatch):
    """Whatever ends the search early: tokens are spent, or there was no room for all open prefixes."""
    model, trie, prompts = tiny_model("llama", seed=2), trie_of(random_spellings(800, 2)), random_prompts(20, 2)
    truth = exact_top_k(start(model, prompts), trie, 10, norm)
    proven = 0
    for budget, frontier in [(1, 4096), (60, 4096), (300, 4096), (None, 3), (None, 8), (None, 30), (60, 30)]:
        monkeypatch.setattr(search, "FRONTIER", frontier)
        monkeypatch.setattr(search, "TOKENS_PER_PASS", min(frontier, 16))
        found = best_first(start(model, prompts), trie, 10, norm, budget=budget)
        same_list = (found.items == truth.items).all(1)
        assert (same_list | ~found.exact).all()
        proven += int(found.exact.sum())
        for items in found.items.tolist():
            real = [item for item in items if item]
            assert len(set(real)) == len(real)
    assert 0 < proven < 7 * len(prompts)


@pytest.mark.parametrize("norm", ["full", "trie"])
def test_a_budget_ends_each_user_alone(norm):
    """What a user gets within a budget does not depend on who is searched along with him."""
    model, trie, prompts = tiny_model("llama", seed=3), trie_of(random_spellings(600, 3)), random_prompts(12, 3)
    together = best_first(start(model, prompts), trie, 10, norm, budget=90)
    for row, prompt in enumerate(prompts):
        alone = best_first(start(model, [prompt]), trie, 10, norm, budget=90)
        assert alone.items[0].tolist() == together.items[row].tolist()
        assert bool(alone.exact[0]) == bool(together.exact[row])
        same(alone.scores[0], together.scores[row])


@pytest.mark.parametrize("norm", ["full", "trie"])
@pytest.mark.parametrize("kind", KINDS)
def test_bf16_changes_no_more_than_its_rounding(kind, norm):
    model, trie, prompts = tiny_model(kind), trie_of(random_spellings(300)), random_prompts(6)
    truth = exact_top_k(start(model, prompts), trie, 10, norm)
    with torch.autocast("cpu", torch.bfloat16):
        found = best_first(start(model, prompts), trie, 10, norm)
    assert found.exact.all() and found.scores.dtype == torch.float32
    torch.testing.assert_close(found.scores, truth.scores, atol=0.5, rtol=0)
    assert (found.items.unsqueeze(2) == truth.items.unsqueeze(1)).any(2).float().mean() > 0.9


# --------------------------------------------------------------------------------------------- what it costs

class Counted:
    """A decoding state that counts what is pushed."""

    def __init__(self, state):
        self.state, self.tokens, self.passes, self.widest = state, 0, 0, 0

    def __getattr__(self, name):
        return getattr(self.state, name)

    def push(self, tokens, visible, depth):
        self.tokens, self.passes = self.tokens + tokens.numel(), self.passes + 1
        self.widest = max(self.widest, tokens.size(1))
        return self.state.push(tokens, visible, depth)


def sharp_model(kind: str):
    """A model that knows what it wants, as a trained one does: its lists hold most of the probability."""
    model = tiny_model(kind, seed=5)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 1.5
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_is_fed_once_and_a_step_has_a_token_a_beam(kind):
    model, trie, prompts = sharp_model(kind), trie_of(random_spellings(2000, 4)), random_prompts(8, 4)
    fed = []
    reader = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    reader.register_forward_pre_hook(lambda _, args, kwargs: fed.append(
        (kwargs["input_ids"] if "input_ids" in kwargs else kwargs["inputs_embeds"][..., 0]).numel()), with_kwargs=True)
    state = Counted(start(model, prompts))
    beam_search(state, trie, 20, 20, "full")
    assert state.passes > 2 and state.widest <= 20
    longest = max(map(len, prompts))
    pushed = 0 if model.config.is_encoder_decoder else state.tokens
    assert sum(fed) - pushed <= len(prompts) * longest


@pytest.mark.parametrize("kind", KINDS)
def test_exact_search_takes_few_tokens_and_passes(kind):
    model, trie, prompts = sharp_model(kind), trie_of(random_spellings(2000, 4)), random_prompts(8, 4)
    for prompt in prompts:
        state = Counted(start(model, [prompt]))
        assert best_first(state, trie, 10, "trie").exact.all()
        assert state.tokens <= 200 and state.passes <= 10


# --------------------------------------------------------------------------------------------- banned items

@pytest.mark.parametrize("norm", ["full", "trie"])
@pytest.mark.parametrize("width", [12, 200])
def test_banned_items_never_appear(norm, width):
    model, trie, prompts = tiny_model("llama"), trie_of(random_spellings(200)), random_prompts(8)
    favourites = exact_top_k(start(model, prompts), trie, 40, norm).items
    banned = favourites[:, [0, 1, 3, 3, 5, 20, 30]].clone()  # an id twice
    banned[::2, -2:] = 0
    ranking = beam_search(start(model, prompts), trie, 10, width, norm, banned)
    for row, (items, forbidden) in enumerate(zip(ranking.items.tolist(), banned.tolist())):
        assert not set(items) & set(forbidden)
        assert len(set(items)) == 10 and 0 not in items
        if width == 200:
            assert items == [item for item in favourites[row].tolist() if item not in forbidden][:10]
    assert (ranking.scores.diff(dim=1) <= 0).all()


def test_different_bans_of_whole_subtrees_leave_each_user_the_masked_exact_ranking():
    """Users of one batch then differ in how many beams are left; a dead beam must not disturb anything."""
    spellings = [[10, 11, END], [10, 11, 12, END], [10, 13, END], [20, 21, 22, 23, END], [20, 21, 24, END], [30, END]]
    model, trie, prompts = tiny_model("llama"), trie_of(spellings), random_prompts(5, seed=4)
    banned = torch.tensor([[1, 2, 3, 6, 0], [4, 5, 0, 0, 0], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5], [6, 6, 6, 6, 6]])
    for norm in ("full", "trie"):
        scores = score_catalogue(start(model, prompts), trie, norm).scatter(1, banned, NEVER)
        best, items = scores.topk(6)
        items = items.masked_fill(best == NEVER, 0)
        for width in (6, 20):
            for ranking in (beam_search(start(model, prompts), trie, 6, width, norm, banned),
                            best_first(start(model, prompts), trie, 6, norm, banned),
                            exact_top_k(start(model, prompts), trie, 6, norm, banned)):
                assert ranking.items.tolist() == items.tolist()
                same(ranking.scores, best)


@pytest.mark.parametrize("norm", ["full", "trie"])
def test_everything_banned_gives_an_empty_list(norm):
    model, trie = tiny_model("llama"), trie_of(random_spellings(5))
    banned = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, 0]])
    for ranking in (beam_search(start(model, random_prompts(2)), trie, 3, 5, norm, banned),
                    best_first(start(model, random_prompts(2)), trie, 3, norm, banned)):
        assert ranking.items.tolist() == [[0, 0, 0], [5, 0, 0]]
        assert (ranking.scores == NEVER).tolist() == [[True] * 3, [False, True, True]]


@pytest.mark.parametrize("norm", ["full", "trie"])
def test_banned_ids_that_no_item_has_change_nothing(norm):
    model, trie, prompts = tiny_model("llama"), trie_of(random_spellings(30)), random_prompts(2)
    banned = torch.tensor([[99, 31], [0, 10**6]])
    for search in (lambda state, banned: beam_search(state, trie, 5, 30, norm, banned),
                   lambda state, banned: best_first(state, trie, 5, norm, banned),
                   lambda state, banned: exact_top_k(state, trie, 5, norm, banned)):
        assert torch.equal(search(start(model, prompts), banned).items, search(start(model, prompts), None).items)


# --------------------------------------------------------------------------------------------- what is refused

@pytest.mark.parametrize("norm", ["full", "trie"])
def test_no_list_is_made_of_nan(norm):
    """A diverged model must not end as an empty list that is proven exact."""
    model, trie = tiny_model("llama"), trie_of(random_spellings(30))
    torch.nn.init.constant_(model.lm_head.weight, torch.nan)
    for search in (lambda state: beam_search(state, trie, 5, 30, norm), lambda state: best_first(state, trie, 5, norm),
                   lambda state: exact_top_k(state, trie, 5, norm)):
        with pytest.raises(FloatingPointError, match="NaN"):
            search(start(model, random_prompts(2)))


def test_equal_scores_give_distinct_items():
    model, trie = tiny_model("llama"), trie_of(random_spellings(60))
    torch.nn.init.zeros_(model.lm_head.weight)
    truth = exact_top_k(start(model, random_prompts(3)), trie, 10, "trie")
    found = best_first(start(model, random_prompts(3)), trie, 10, "trie")
    same(found.scores, truth.scores)
    assert all(len(set(row)) == 10 for row in found.items.tolist())


def test_arguments_that_cannot_be():
    model, trie = tiny_model("llama"), trie_of(random_spellings(30))
    with pytest.raises(ValueError, match="5 beams"):
        beam_search(start(model, random_prompts(2)), trie, 10, 5)
    with pytest.raises(ValueError, match="Full"):
        best_first(start(model, random_prompts(2)), trie, 5, "Full")
    for items in ([1, 31], [0, 2], [-1, 2]):
        with pytest.raises(ValueError, match="not in the trie"):
            score_items(start(model, random_prompts(2)), trie, torch.tensor(items).unsqueeze(1))


# --------------------------------------------------------------------------------------------- shapes of lists

@pytest.mark.parametrize("count, width, k", [(500, 20, 20), (500, 10, 10), (500, 20, 5), (25, 20, 20)])
@pytest.mark.parametrize("norm", ["full", "trie"])
def test_lists_hold_distinct_items_best_first(count, width, k, norm):
    model, prompts = tiny_model("llama", seed=7), random_prompts(16, 7)
    spellings = random_spellings(count, 7)
    ranking = beam_search(start(model, prompts), trie_of(spellings), k, width, norm)
    truth = score_catalogue(start(model, prompts), trie_of(spellings), norm)
    assert ranking.items.shape == ranking.scores.shape == (16, k)
    assert all(len(set(row)) == k for row in ranking.items.tolist())
    assert ranking.items.min() >= 1 and ranking.items.max() <= count
    assert (ranking.scores.diff(dim=1) <= 0).all()
    same(ranking.scores, truth.gather(1, ranking.items))


@pytest.mark.parametrize("norm", ["full", "trie"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_catalogue_smaller_than_the_list_is_padded(count, norm):
    model, trie, prompts = tiny_model("gpt2"), trie_of(random_spellings(count)), random_prompts(3)
    for ranking in (beam_search(start(model, prompts), trie, 10, 20, norm),
                    best_first(start(model, prompts), trie, 10, norm),
                    exact_top_k(start(model, prompts), trie, 10, norm)):
        assert ranking.items.shape == ranking.scores.shape == (3, 10)
        assert [sorted(row[:count]) for row in ranking.items.tolist()] == [list(range(1, count + 1))] * 3
        assert (ranking.items[:, count:] == 0).all() and (ranking.scores[:, count:] == NEVER).all()
        assert ranking.scores[:, :count].isfinite().all()


def test_items_may_have_any_ids():
    spellings, ids = random_spellings(30), list(range(90, 0, -3))
    model, prompts = tiny_model("llama"), random_prompts(4)
    plain = beam_search(start(model, prompts), trie_of(spellings), 10, 30)
    renamed = beam_search(start(model, prompts), trie_of(spellings, ids), 10, 30)
    assert renamed.items.tolist() == [[ids[item - 1] for item in row] for row in plain.items.tolist()]


def test_one_token_spellings_need_no_push():
    """A trie of depth one is decided by the prompt's last state alone."""
    spellings, prompts = [[token] for token in range(50, 80)], random_prompts(3)
    model, trie = tiny_model("llama"), trie_of([[token] for token in range(50, 80)])
    ranking, best = beam_search(start(model, prompts), trie, 30, 30), exact_top_k(start(model, prompts), trie, 30)
    truth = torch.stack([by_hand(model, prompt, spellings, "full") for prompt in prompts]).sort(descending=True)
    assert ranking.items.tolist() == best.items.tolist() == (truth.indices + 1).tolist()


# --------------------------------------------------------------------------------------------- independence

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["full", "trie"])
def test_a_user_alone_gets_the_same_as_in_a_batch(kind, norm):
    model, trie, prompts = tiny_model(kind), trie_of(random_spellings(300, 2)), random_prompts(7, 2)
    together = beam_search(start(model, prompts), trie, 10, 20, norm)
    every = score_catalogue(start(model, prompts), trie, norm)
    for row, prompt in enumerate(prompts):
        alone = beam_search(start(model, [prompt]), trie, 10, 20, norm)
        assert alone.items[0].tolist() == together.items[row].tolist()
        same(alone.scores[0], together.scores[row])
        same(score_catalogue(start(model, [prompt]), trie, norm)[0, 1:], every[row, 1:])
