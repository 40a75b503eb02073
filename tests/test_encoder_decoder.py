"""Lists of the models on an encoder-decoder against Hugging Face's ``generate``, what they add to the encoder included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data_helpers import config_of, random_interactions, write_dataset

from recbole_genrec.benchmark import Data

BEAMS = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(30, 40, 6, 11))


@torch.no_grad()
def by_generate(model, prompts) -> tuple[list[list[int]], torch.Tensor]:
    """Items and scores of ``BEAMS`` beams, each user alone, under a callback that knows the spellings only."""
    children: dict[tuple[int, ...], set[int]] = {}
    items = {tuple(model.index.spelling(item)): item for item in range(1, model.index.n_items)}
    for spelling in items:
        for place, token in enumerate(spelling):
            children.setdefault(spelling[:place], set()).add(token)
    core, lists, scores = model.backbone.core, [], []
    for row in range(len(prompts.tokens)):
        one = prompts.rows(torch.tensor([row]))
        output = core.generate(
            inputs_embeds=model.backbone.encoder_inputs(one), attention_mask=one.mask.long(), num_beams=BEAMS,
            num_return_sequences=BEAMS, do_sample=False, length_penalty=0.0, early_stopping="never",
            max_new_tokens=int(model.index.lengths.max()) + 1, eos_token_id=model.index.terminator, pad_token_id=0,
            forced_eos_token_id=None, forced_bos_token_id=None, no_repeat_ngram_size=0, return_dict_in_generate=True,
            output_scores=True,
            prefix_allowed_tokens_fn=lambda _, told: sorted(children.get(tuple(told[1:].tolist()), {0})))
        end = model.index.terminator
        told = [answer[:answer.index(end) + 1] for answer in output.sequences[:, 1:].tolist()]
        lists.append([items[tuple(answer)] for answer in told])
        scores.append(output.sequences_scores)
    return lists, torch.stack(scores)


@pytest.mark.parametrize("llm", ["tiny-t5", "tiny-bart"])
@pytest.mark.parametrize("name, index", [("GenRecT5", "shuffled_id"), ("GenRecT5", "title"), ("P5", "shuffled_id"),
                                         ("P5", "collaborative")])
def test_constrained_beams_are_those_of_generate(dataset, name, index, llm):
    config = config_of(dataset, name, gpu_id="", precision="fp32", llm=llm, item_index=index, num_beams=BEAMS,
                       train_stage="finetune", weight_decay=0.0)
    data = Data.load(config)
    torch.manual_seed(3)
    model = config.model_class(config, data.parts[0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    samples = data.parts[0].inter_feat[torch.arange(60)].gather()
    for _ in range(6):  # the added tables are no zeros then
        optimizer.zero_grad()
        model.calculate_loss(samples).backward()
        optimizer.step()
    model.eval()
    users = data.parts[2].inter_feat[torch.arange(10)].gather()
    ranking = model.recommend(users, 10)
    items, scores = by_generate(model, model.prompt_of(users))
    assert ranking.items.tolist() == [row[:10] for row in items]
    torch.testing.assert_close(ranking.scores, scores[:, :10], atol=1e-4, rtol=0)
