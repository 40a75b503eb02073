"""Validity of free generation: what the language model says when nothing constrains it."""

from __future__ import annotations

from typing import Any

import torch


@torch.no_grad()
def free_generation(model, eval_data, users: int, beams: int = 10) -> dict[str, Any]:
    """Let the model generate without the trie and count what comes out. Measures only; ranks nothing.

    Args:
        model: a generative recommender.
        eval_data: RecBole's test loader; its first ``users`` rows are used.
        beams: outputs per user (GenRec's paper: ten).
    Returns:
        ``valid_rate`` - share of outputs whose text, white space aside, is an item's spelling (the paper's match);
        ``duplicate_rate`` - share of those that repeat an item of the same list (one text has several
        tokenisations); ``validity_users``, ``validity_beams``.
    """
    seen = outputs = valid = repeated = 0
    for interaction, *_ in eval_data:
        prompts = model.prompt_of(interaction[: users - seen].to(model.device))
        for rows in prompts.groups():
            items, _, _ = model.write(prompts.rows(rows), beams)
            found = items.sort(1).values
            outputs, valid = outputs + items.numel(), valid + int((items > 0).sum())
            repeated += int(((found[:, 1:] == found[:, :-1]) & (found[:, 1:] > 0)).sum())
        seen += len(prompts.lengths)
        if seen >= users:
            break
    return {"valid_rate": valid / outputs, "duplicate_rate": repeated / valid if valid else 0.0,
            "validity_users": seen, "validity_beams": beams}
