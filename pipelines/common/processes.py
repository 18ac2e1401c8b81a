"""One job in several processes, on one machine or more, as `torchrun` starts them.

`torchrun` gives each process RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; without
them a job is a single process and nothing here communicates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from n3match.arguments import device as checked_device

# How long the fastest process waits for the slowest: shares of work may be very uneven.
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Processes:
    """Which of the processes this one is, and what they tell each other."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - an immutable value

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    @property
    def group(self) -> dist.ProcessGroup | None:
        """All processes; None where there is one."""
        return None if self.size == 1 else dist.group.WORLD

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all processes' tensors, without a gradient; `x` is overwritten."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def from_first(self, value):
        """The first process's value, in all of them; plain data and tensors on the CPU."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value) -> list | None:
        """All processes' values by rank, in the first process; None in the others."""
        if self.size == 1:
            return [value]
        # Gathered everywhere: NCCL has no gather of objects.
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values if self.is_first else None

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined_processes(device: str | torch.device | None = None) -> Iterator[Processes]:
    """The processes that `torchrun` started, or this one alone.

    Args:
        device: "cpu", "cuda", …; None: a GPU where there is one. Each process of a machine takes
            a GPU of its own.

    Raises:
        ValueError: RANK or WORLD_SIZE is no number, or a machine has more processes than GPUs.
    """
    rank, size = (_number(name, default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    device = checked_device("device", device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if size == 1:
        yield Processes(device=device)
        return
    if device.type == "cuda":
        local = _number("LOCAL_RANK", 0)
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"LOCAL_RANK: found {local} with {torch.cuda.device_count()} GPUs, "
                "wanted at most one process for each (torchrun --nproc-per-node)"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        yield Processes(rank, size, device)
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ValueError(f"{name}: found {text!r} in the environment, wanted a number")
    return int(text)
