"""Free beam search: Hugging Face's outputs, and places within entities judged beam by beam."""

from __future__ import annotations

import pytest
import torch
from conftest import END, batch_of, random_prompts, random_spellings, start, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_genrec.decoding.free import free_beams
from recbole_genrec.infilling.positions import EntityPositions, pool

LONGEST = 7


def by_generate(model, prompts: list[list[int]], width: int) -> tuple[list[list[list[int]]], list[list[float]]]:
    """Hugging Face's outputs without their END, and their scores."""
    texts, scores = [], []
    for prompt in prompts:
        tokens = torch.tensor([prompt])
        out = model.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), num_beams=width,
                             num_return_sequences=width, do_sample=False, length_penalty=0.0, max_new_tokens=LONGEST,
                             eos_token_id=END, pad_token_id=END, early_stopping="never", return_dict_in_generate=True,
                             output_scores=True)
        begin = 1 if model.config.is_encoder_decoder else len(prompt)
        texts.append([[token for token in row[begin:].tolist() if token != END] for row in out.sequences])
        scores.append(out.sequences_scores.tolist())
    return texts, scores


@pytest.mark.parametrize("width", [2, 3, 10])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "bart"])
def test_outputs_are_those_of_generate(kind, width):
    model, prompts = tiny_model(kind, vocab=40, seed=2), random_prompts(6, 4, vocab=40)
    with torch.no_grad():
        model.get_output_embeddings().weight[END] *= 3  # some beams end, some are cut
    texts, scores = by_generate(model, prompts, width)
    tokens, found = free_beams(start(model, prompts), END, width, LONGEST)
    written = [[[token for token in row if token != END] for row in user] for user in tokens.tolist()]
    torch.testing.assert_close(found, torch.tensor(scores), atol=1e-4, rtol=0)
    assert written == texts
    assert any(len(row) < LONGEST for user in written for row in user)


class Recorder:
    """A decoding state of random logits that remembers what each of its pushed tokens was told to be."""

    def __init__(self, users: int, vocabulary: int, seed: int):
        self.hidden, self.vocabulary = torch.zeros(users, 1), vocabulary
        self.random = torch.Generator().manual_seed(seed)
        self.tokens, self.intra, self.visible = [], [], []

    def logits(self, hidden):
        return 3 * torch.randn(*hidden.shape[:-1], self.vocabulary, generator=self.random)

    def push(self, tokens, visible, depth, intra=None):
        self.tokens.append(tokens)
        self.intra.append(intra)
        self.visible.append(visible)
        return tokens.unsqueeze(-1).float()


@given(st.integers(0, 10**6), st.sampled_from(["grow", "literal"]), st.integers(2, 6))
@settings(max_examples=30)
def test_places_in_generation_are_those_of_teacher_forcing_on_every_beam(seed, rule, width):
    spellings = [[token % 8 + 4 for token in spelling[:-1]] for spelling in random_spellings(12, seed)]
    separator, begin = 3, 12
    positions = EntityPositions(pool(spellings, END), begin, separator, rule, 50)
    state = Recorder(2, 12, seed)
    free_beams(state, END, width, LONGEST, positions)
    for step in range(len(state.tokens)):
        visible = state.visible[step]
        tokens = torch.cat(state.tokens[:step + 1], 1)
        for user in range(2):
            for beam in range(width):
                path = visible[user, beam].nonzero().flatten()
                assert len(path) == step + 1  # a beam sees its own tokens, one a step
                place = positions.begin((1,))
                for at in path.tolist():
                    place = positions.step(place, tokens[user, at:at + 1])
                assert int(state.intra[step][user, beam]) == int(place.intra)


def test_prompts_of_one_token_and_users_apart():
    model = tiny_model("llama", vocab=40)
    together, _ = free_beams(start(model, [[1], [1, 5, 6]]), END, 4, 5)
    alone, _ = free_beams(start(model, [[1]]), END, 4, 5)
    assert torch.equal(together[:1], alone) and batch_of([[1]]).lengths.item() == 1
