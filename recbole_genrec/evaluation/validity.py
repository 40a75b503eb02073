"""Validity of free generation: what the language model says when nothing constrains it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

#: An output is a near miss if so many edits (inserted, deleted or replaced characters), as a share of the longer
#: text's length, or fewer make a title of it.
NEAR = 0.2


@torch.no_grad()
def free_generation(model, eval_data, users: int, beams: int = 10) -> dict[str, Any]:
    """Let the model generate without the trie and count what comes out. Measures only; ranks nothing.

    Args:
        model: a generative recommender.
        eval_data: RecBole's test loader; its first ``users`` rows are used.
        beams: outputs per user (GenRec's paper: ten).
    Returns:
        ``valid_rate`` - share of outputs whose text, white space aside, is an item's spelling (the paper's match);
        ``near_miss_rate`` - share of outputs that are almost one (:data:`NEAR`); ``empty_rate`` - share without any
        text; what is left of 1 is other text. ``duplicate_rate`` - share of the valid outputs that repeat an item of
        the same list (one text has several tokenisations); ``validity_users``, ``validity_beams``.
    """
    seen = outputs = valid = repeated = empty = 0
    wrong: list[str] = []
    for interaction, *_ in eval_data:
        prompts = model.prompt_of(interaction[: users - seen].to(model.device))
        for rows in prompts.groups():
            items, texts, _ = model.write(prompts.rows(rows), beams)
            said = [text for row in texts for text in row]
            wrong += [text for text, item in zip(said, items.flatten().tolist()) if text and not item]
            empty += sum(not text for text in said)
            found = items.sort(1).values
            outputs, valid = outputs + items.numel(), valid + int((items > 0).sum())
            repeated += int(((found[:, 1:] == found[:, :-1]) & (found[:, 1:] > 0)).sum())
        seen += len(prompts.lengths)
        if seen >= users:
            break
    return {"valid_rate": valid / outputs, "duplicate_rate": repeated / valid if valid else 0.0,
            "near_miss_rate": near_misses(wrong, list(model.spelled)) / outputs, "empty_rate": empty / outputs,
            "validity_users": seen, "validity_beams": beams}


def near_misses(texts: Collection[str], titles: Collection[str]) -> int:
    """How many of the texts are within :data:`NEAR` of a title, in Levenshtein distance over the longer length."""
    return sum(process.extractOne(text, titles, scorer=Levenshtein.normalized_distance, score_cutoff=NEAR) is not None
               for text in texts)
