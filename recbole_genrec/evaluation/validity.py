"""Validity of free generation: what the language model says when nothing constrains it."""

from __future__ import annotations

from typing import Any

import torch


@torch.no_grad()
def free_generation(model, eval_data, users: int, beams: int = 10) -> dict[str, Any]:
    """Let the model generate without the trie and count what comes out. Measures only; ranks nothing.

    Args:
        model: a generative recommender with a decoder-only backbone.
        eval_data: RecBole's test loader; its first ``users`` rows are used.
        beams: outputs per user (the paper's ten).
    Returns:
        ``valid_rate`` - share of outputs whose text, white space aside, is an item's spelling (the paper's match);
        ``duplicate_rate`` - share of those that repeat an item of the same list (one text has several
        tokenisations); ``validity_users``, ``validity_beams``.
    """
    core, end = model.backbone.core, model.index.terminator
    spelled = {" ".join(text.split()) for text in model.index.texts[1:]}
    seen = outputs = valid = repeated = 0
    longest = int(model.index.lengths.max())
    for interaction, *_ in eval_data:
        prompts = model.prompt_of(interaction[: users - seen].to(model.device))
        # generate() wants the padding on the left
        shift = prompts.tokens.size(1) - prompts.lengths
        column = torch.arange(prompts.tokens.size(1), device=model.device) - shift.unsqueeze(1)
        tokens = prompts.tokens.gather(1, column.clamp(min=0)).masked_fill(column < 0, 0)
        with model.autocast():
            generated = core.generate(input_ids=tokens, attention_mask=(column >= 0).long(), num_beams=beams,
                                      num_return_sequences=beams, do_sample=False, length_penalty=0.0,
                                      max_new_tokens=longest, eos_token_id=end, pad_token_id=end)
        texts = model.tokenizer.batch_decode(generated[:, tokens.size(1):], skip_special_tokens=True)
        for first in range(0, len(texts), beams):
            lines = (" ".join(text.split()) for text in texts[first:first + beams])
            known = [line for line in lines if line in spelled]
            outputs, valid, repeated = outputs + beams, valid + len(known), repeated + len(known) - len(set(known))
        seen += len(tokens)
        if seen >= users:
            break
    return {"valid_rate": valid / outputs, "duplicate_rate": repeated / valid if valid else 0.0,
            "validity_users": seen, "validity_beams": beams}
