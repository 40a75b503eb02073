"""Several processes, one run (``torchrun``): they share the batches, and the numbers are those of one process.

A training batch is split by rows, and its gradient is the sum over all of them: ``train_batch_size`` means the same
for any number of processes. In evaluation each whole batch is one process's, so that a user's list is computed in the
very tensors in which one process would compute it. Process 0 alone writes and speaks.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recbole_genrec.errors import UserError

#: Values that are added up in one message: more is fewer messages and more memory.
_BUCKET = 1 << 24
#: How long one process waits for another; a long evaluation or a large model being read is no failure.
_PATIENCE = datetime.timedelta(hours=6)
#: What the user set before RecBole sets it.
_VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")


def size() -> int:
    """Processes of this run; 1 unless torchrun started it."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return int(os.environ["RANK"]) if dist.is_torchelastic_launched() else 0


def is_main() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


def own_gpu(gpus: str) -> str:
    """Of RecBole's ``gpu_id`` (``"0,1"``), the GPU of this process; torchrun counts processes of a machine from 0.

    RecBole makes the answer ``CUDA_VISIBLE_DEVICES``. Where that was set, ``gpu_id`` counts within it, as CUDA does.

    Raises:
        UserError: ``CUDA_VISIBLE_DEVICES`` shows fewer.
    """
    if size() > 1 and gpus:
        local, listed = int(os.environ["LOCAL_RANK"]), gpus.split(",")
        gpus = listed[local] if len(listed) >= int(os.environ["LOCAL_WORLD_SIZE"]) else str(local)
    if _VISIBLE is None or not all(number.strip().isdigit() for number in gpus.split(",")):
        return gpus
    visible = [name.strip() for name in _VISIBLE.split(",") if name.strip()]
    if not visible:
        return ""
    try:
        return ",".join(visible[int(number)] for number in gpus.split(","))
    except IndexError:
        raise UserError(f"gpu_id={gpus}, counted from 0, but CUDA_VISIBLE_DEVICES={_VISIBLE} shows {len(visible)}") \
            from None


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within this block the processes can talk to each other."""
    if size() == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather(value: Any) -> list[Any]:
    """Everybody's value, by rank, for everybody."""
    if size() == 1:
        return [value]
    values = [None] * size()
    dist.all_gather_object(values, value)
    return values


def from_main(value: Any) -> Any:
    """Process 0's value, for everybody."""
    if size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def total(numbers: Sequence[float]) -> list[float]:
    """Sums over the processes, in float64."""
    if size() == 1:
        return list(numbers)
    values = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(values)
    return values.tolist()


def own_rows(batch):
    """This process's rows of a training batch, and whether there are any: a lone row is lent to who has none."""
    if size() == 1:
        return batch, True
    rows = range(rank(), len(batch), size())
    return batch[torch.tensor(list(rows) or [0])], bool(rows)


def same_weights(model: nn.Module) -> None:
    """Give every process the weights and buffers of process 0, whatever machine it is on."""
    if size() > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), 0)


def same_buffers(model: nn.Module) -> None:
    """Give every process the buffers of process 0: each has normalised batches of its own."""
    if size() > 1:
        for tensor in model.buffers():
            dist.broadcast(tensor.detach(), 0)


def add_up_gradients(weights: Sequence[nn.Parameter]) -> None:
    """Make every gradient the sum over the processes; one that is None everywhere stays None."""
    if size() == 1:
        return
    used = total([float(weight.grad is not None) for weight in weights])
    bucket: list[Tensor] = []
    for weight, somewhere in zip(weights, used):
        if not somewhere:
            continue
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        if bucket and (bucket[0].dtype != weight.dtype or sum(map(Tensor.numel, bucket)) > _BUCKET):
            _add_up(bucket)
            bucket = []
        bucket.append(weight.grad)
    if bucket:
        _add_up(bucket)


def _add_up(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view_as(tensor))


def cut_frozen(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Cut the frozen weights of a model's blocks in pieces, one a process (FSDP2); each is whole while it computes.

    What trains (LoRA) is small and stays whole: it is summed, saved and read back as in one process.
    """
    from torch.distributed.fsdp import fully_shard

    trained = {weight for weight in model.parameters() if weight.requires_grad}
    for block in blocks:
        fully_shard(block, ignored_params=trained, reshard_after_forward=True)
