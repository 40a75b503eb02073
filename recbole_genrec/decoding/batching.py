"""Many users through a decoder, a few at a time: as many as memory holds, and fewer if that was too many."""

from __future__ import annotations

import logging
from typing import Callable

import psutil
import torch
from torch import Tensor

from recbole_genrec.decoding.tree import Ranking
from recbole_genrec.running.failures import out_of_memory

#: Users that go together at most. More do not pay: on a CPU the caches are full, on a GPU the arithmetic units.
MOST_USERS = {"cpu": 32, "cuda": 128}
#: Tokens that a user's tree is reckoned with.
TREE_TOKENS = 512
#: Share of the free memory that may be planned with.
SHARE = 0.5

log = logging.getLogger("recbole_genrec")


def users_that_fit(bytes_per_token: int, longest: int, device: torch.device) -> int:
    """Users whose keys and values, and as much again for what is computed from them, fit into the free memory.

    Args:
        bytes_per_token: of the backbone's keys and values.
        longest: tokens of the longest prompt.
        device: where they are to fit.
    """
    if device.type == "cuda":  # what torch holds in reserve, since training, is free too
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) \
            - torch.cuda.memory_allocated(device)
    else:
        free = psutil.virtual_memory().available
    each = 2 * bytes_per_token * (longest + TREE_TOKENS)
    return max(1, min(MOST_USERS.get(device.type, 32), int(SHARE * free) // each))


def in_batches(lengths: Tensor, k: int, size: int, decode: Callable[[Tensor], Ranking]) -> Ranking:
    """Decode users of like length together. The lists do not depend on who is decoded with whom.

    Args:
        lengths: ``[B]`` tokens of each user's prompt.
        k: length of the lists.
        size: users at a time. Halved, with a warning, when memory runs out.
        decode: row numbers -> their lists.
    Raises:
        torch.OutOfMemoryError, RuntimeError: not even one user fits.
    """
    ranking = Ranking.empty(len(lengths), k, lengths.device)
    todo = list(lengths.argsort(stable=True).split(size)) if len(lengths) else []
    while todo:
        rows = todo.pop()  # the longest first: if memory is short, it shows at once
        try:
            ranking.put(rows, decode(rows))
            continue
        except RuntimeError as error:
            if len(rows) == 1 or not out_of_memory(error):
                raise
        # Outside of the handler: the error holds on to all tensors of the failed attempt.
        if lengths.is_cuda:
            torch.cuda.empty_cache()
        half = len(rows) // 2
        log.warning("warning: out of memory while decoding %d users at a time; going on with %d", len(rows), half)
        todo = [part for group in (*todo, rows) for part in group.split(half)]
    return ranking
