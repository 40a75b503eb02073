"""Why a run failed, in one line that a record can keep and a user can act on."""

from __future__ import annotations

import errno

import torch

_LOSS = "the loss became"


class Diverged(ArithmeticError):
    """The loss is no number any more; raised before it reaches the weights.

    Args:
        what: the value, where, and what may help.
    """

    def __init__(self, what: str):
        super().__init__(f"{_LOSS} {what}")


_STORAGE = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up",
            errno.EROFS: "the file system is read-only", errno.EACCES: "no permission to write",
            errno.EFBIG: "the file would be larger than allowed"}


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out: the GPU's, the host's, or the CPU allocator of torch."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or isinstance(error, RuntimeError) and any(
        said in str(error) for said in ("can't allocate memory", "not enough memory"))


def out_of_storage(error: BaseException) -> bool:
    """Whether it says that nothing can be written any more."""
    return isinstance(error, OSError) and error.errno in _STORAGE or \
        "No space left on device" in str(error)  # safetensors wraps the system's error in one of its own


def is_everybodys(record: dict) -> bool:
    """Whether all processes of a run fail so at the same step: none waits for another."""
    return record["reason"].startswith(_LOSS)


def lost_contact(error: BaseException) -> bool:
    """Whether it only says that another process of the run is gone: that one knows why."""
    return isinstance(error, RuntimeError) and any(name in str(error) for name in ("gloo", "NCCL", "Connection closed"))


def reason(error: BaseException) -> str:
    """One line, at most 500 characters: what happened, where, and what can be done about it."""
    said = " ".join(str(error).split())
    if out_of_memory(error):
        said = f"out of memory ({said or 'no more was said'}): lower train_batch_size or eval_batch_size " \
               "(or, with a language model, set gradient_checkpointing=true)"
    elif out_of_storage(error):
        what = _STORAGE.get(getattr(error, "errno", None), _STORAGE[errno.ENOSPC])
        said = f"{what} ({said}): the run continues where it was once there is room"
    elif not isinstance(error, Diverged):
        said = f"{type(error).__name__}: {said}"
    return said[:500]
