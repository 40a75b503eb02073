"""Free beam search: what the model writes when no trie constrains it. Slow, and only good for measuring that."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_genrec.decoding.tree import NEVER, DecodingState


@torch.no_grad()
def free_beams(state: DecodingState, end: int, width: int, longest: int, positions=None) -> tuple[Tensor, Tensor]:
    """Hugging Face's beam search (``length_penalty=0``, as many outputs as beams) on the step interface.

    Args:
        state: prompts of ``B`` users; used up.
        end: token that ends an answer.
        width: beams, and outputs, a user.
        longest: tokens of an answer at most, its end included; a longer one is cut.
        positions: :class:`recbole_genrec.infilling.positions.EntityPositions` for a model that reads places within
            entities, which are then judged token by token, beam by beam; None: the answer is one entity.
    Returns:
        ``[B, width, longest]`` int64 tokens, ``end`` after the last; ``[B, width]`` float32 log-probabilities. Best
        first.
    """
    users, device = len(state.hidden), state.hidden.device
    rank = torch.arange(2 * width, device=device)
    written = torch.full((users, width, longest), end, device=device)
    done, done_score = written, torch.full((users, width), NEVER, device=device)
    score = torch.full((users, width), NEVER, device=device)
    score[:, 0] = 0  # all beams are alike before the first token
    hidden = state.hidden.unsqueeze(1).expand(-1, width, -1)
    sees = torch.zeros(users, width, 0, dtype=torch.bool, device=device)  # which pushed tokens each beam sees
    own = torch.eye(width, dtype=torch.bool, device=device).expand(users, -1, -1)
    place = None if positions is None else positions.begin((users, width), device)
    for step in range(longest):
        total = score.unsqueeze(2) + state.logits(hidden).float().log_softmax(-1)
        vocabulary = total.size(2)
        total, flat = total.flatten(1).topk(2 * width)
        beam, token = flat // vocabulary, flat % vocabulary
        ends = token == end
        # Only what is among the best ``width`` may end; at the last step all of it has to.
        over = (rank < width) & (ends | (step == longest - 1))
        text = written.gather(1, beam.unsqueeze(2).expand(-1, -1, longest))
        text[:, :, step] = token
        done_score, best = torch.cat([done_score, total.masked_fill(~over, NEVER)], 1).topk(width)
        done = torch.cat([done, text], 1).gather(1, best.unsqueeze(2).expand(-1, -1, longest))

        score, kept = total.masked_fill(ends, NEVER).topk(width)
        if step == longest - 1 or bool((score[:, 0] <= done_score[:, -1]).all()):
            break  # scores only fall
        written = text.gather(1, kept.unsqueeze(2).expand(-1, -1, longest))
        beam, token = beam.gather(1, kept), token.gather(1, kept)
        sees = torch.cat([sees.gather(1, beam.unsqueeze(2).expand(-1, -1, sees.size(2))), own], 2)
        if place is not None:
            place = positions.step(place.gather(beam), token)
        hidden = state.push(token, sees, torch.full_like(token, step), None if place is None else place.intra)
    return done, done_score
