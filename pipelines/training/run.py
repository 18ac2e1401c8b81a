"""The run that trains a network: in one process or several, from nothing or from where it was.

What is trained is a `Task`; there are two, `filter.task` and `denoiser.task`. A run lives in one
folder: `state.pt` (everything needed to go on), `log.csv`, `validation.csv` where there is a
validation, and the weights. Started again with the same options it goes on where it was: batch
number s and the random numbers of step s depend on the seed and s alone, so a killed run gives the
same curve and the same weights as one that wasn't.
"""

from __future__ import annotations

import argparse
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from n3match.nn.distributed import synchronise_statistics
from n3match.pipelines.common.processes import Processes, joined_processes
from n3match.pipelines.common.progress_log import lock_file
from n3match.pipelines.training.config import RunConfig
from n3match.pipelines.training.reports import Reports
from n3match.pipelines.training.state import Progress, load_state, save_state
from n3match.weights import save_weights
from n3match.weights.tiny import without_tiny

_MOST_SKIPPED = 100  # steps without finite gradients


class Task(ABC):
    """What a run trains.

    Attributes:
        name: of the weights file.
        config: what determines the curve; that of the first process counts.
        marks: numbers of a validation by which weights are chosen, the next one among equals. A
            task that has them has `validate_every` and `patience` in its configuration.
    """

    name: str
    config: RunConfig
    marks: tuple[str, ...] = ()

    @abstractmethod
    def network(self) -> nn.Module:
        """A new one, whose `config` is a dataclass of plain values."""

    @abstractmethod
    def initialise(self, net: nn.Module) -> None:
        """Gives a new network the weights to start from; in the first process alone.

        Raises:
            FileNotFoundError, ValueError: no such weights, or those of another network.
        """

    @abstractmethod
    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """For a network's parameters, new."""

    @abstractmethod
    def batches(self, folder: Path, processes: Processes) -> Dataset:
        """Of each step this process's share, a dictionary of tensors, by ``batches[step]``."""

    @abstractmethod
    def losses(
        self, net: nn.Module, batch: dict[str, Tensor], step: int, processes: Processes
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is minimised, and numbers for the log, without gradients.

        The mean of the processes' losses is the loss of the whole batch; the numbers are those of
        the whole batch already.
        """

    def validation(self) -> Callable[[nn.Module, Processes], dict[str, float]] | None:
        """Gives numbers of a network, shares of 1, the same in all processes; None: no such."""
        return None

    @abstractmethod
    def notes(self) -> dict:
        """What is told in the weights file of how they were made: plain values, no paths."""


def train(
    task: Task,
    folder: str | Path,
    *,
    save_every: int = 100,
    device: str | torch.device | None = None,
    loaders: int = 0,
    compiled: bool = False,
) -> Path:
    """Runs, or goes on with, the training in `folder`.

    Under `torchrun` each process takes a share of every batch; gradients and batch statistics are
    those of the whole, so the result is that of one process up to rounding.

    Args:
        save_every: steps between states. Without a validation weights are written with each.
        device: None: a GPU where there is one.
        loaders: processes that make batches, for each that trains; 0: a thread.
        compiled: the network is put through torch.compile first: the same numbers up to rounding,
            which steps make grow, but other noise where the network draws some (concrete). Subsets
            of matches (mutual, refined, pruned) become masks, so these take longer.

    Returns:
        The path of the weights: the best by validation, the last where there is none.

    Raises:
        ValueError: the folder holds a run with other options, or one that is going on; unusable
            data or weights.
        RuntimeError: too many steps without finite gradients; `compiled`, and no compiler.
    """
    folder = Path(folder)
    with joined_processes(device) as processes, _alone_in(folder, processes):
        return _Run(task, folder, processes, save_every, loaders, compiled).run()


@contextmanager
def _alone_in(folder: Path, processes: Processes) -> Iterator[None]:
    """Makes a run's folder, and holds it: rows of two runs in one log would be of neither."""
    if not processes.is_first:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        lock_file(file, folder)
        yield


def train_by_command(task: Task, arguments: argparse.Namespace, loaders: int = 0) -> int:
    """`train` with the options of `add_run_arguments`; prints the path of the weights."""
    if arguments.save_every < 1:
        raise ValueError(f"--save-every must be at least 1, got {arguments.save_every}")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    path = train(
        task, arguments.out, save_every=arguments.save_every, device=arguments.device,
        loaders=loaders, compiled=arguments.compile,
    )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        print(path)
    return 0


class _Run:
    def __init__(
        self, task: Task, folder: Path, processes: Processes, save_every: int, loaders: int,
        compiled: bool,
    ):
        task.config = config = processes.from_first(task.config)
        self.task, self.config, self.processes = task, config, processes
        self.folder, self.weights = folder, folder / f"{task.name}.safetensors"
        self.save_every, self.loaders = save_every, loaders
        self.validation = task.validation()
        self.batches = task.batches(folder, processes)
        # Trained weights hold tiny numbers; denormal arithmetic is many times slower on a CPU.
        torch.set_flush_denormal(True)
        torch.manual_seed(config.seed)
        self.net = task.network()
        state = None
        if processes.is_first:
            state = load_state(folder / "state.pt", config, self.weights)
            if state is None:
                task.initialise(self.net)
        # The first process alone need see the state and the weights to start from.
        state = processes.from_first(state)
        self.net.load_state_dict(
            processes.from_first(self.net.state_dict()) if state is None else state["net"]
        )
        self.net.to(processes.device).train()
        if compiled:
            self.net.compile()
        synchronise_statistics(self.net, processes.group)
        self.averaged = AveragedWeights(self.net, config.ema) if config.ema else None
        self.optimizer = task.optimizer(self.net)
        self.progress = Progress()
        if state is not None:
            self.progress = state["progress"]
            self.optimizer.load_state_dict(state["optimizer"])
            if self.averaged is not None:
                self.averaged.load(state["averaged"])

    def run(self) -> Path:
        config, progress, is_first = self.config, self.progress, self.processes.is_first
        if progress.step and not self.processes.from_first(self.weights.exists()):
            # Lost, only the state is still there: the last are the best of what is left.
            progress.best = ()
            self._write_weights()
        reports = Reports(self.folder, progress.step, config.steps) if is_first else None
        # Batches are made ahead while the network is busy.
        batches = stream(self.batches, range(progress.step, config.steps), self.loaders)
        try:
            while progress.step < config.steps and not progress.stopped:
                numbers = self._step(progress.step, next(batches))
                if reports is not None:
                    reports.step(progress.step, numbers)
                progress.step += 1
                is_last = progress.step == config.steps
                validates = self.validation is not None and (
                    is_last or progress.step % config.validate_every == 0
                )
                if validates:
                    self._validate(reports)
                if validates or is_last or progress.step % self.save_every == 0:
                    self._save()
        finally:
            batches.close()
            if reports is not None:
                reports.close()
        self.processes.wait()
        return self.weights

    def _step(self, step: int, batch: dict[str, Tensor]) -> dict[str, float]:
        config, net, progress = self.config, self.net, self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate(step)
        # Random choices in the network: the same again after a stop, others in each process.
        torch.manual_seed((config.seed * config.steps + step) * 1009 + self.processes.rank)
        batch = {k: v.to(self.processes.device, non_blocking=True) for k, v in batch.items()}
        total, numbers = self.task.losses(net, batch, step, self.processes)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        _average_gradients(net, self.processes)
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip or float("inf"))
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
            if self.averaged is not None:
                self.averaged.update(net, step)
        else:
            progress.skipped += 1
            if progress.skipped > _MOST_SKIPPED:
                raise RuntimeError(
                    f"training diverged: {progress.skipped} steps without finite gradients"
                )
        numbers = {**numbers, "gradient_norm": norm}
        return dict(zip(numbers, torch.stack([*numbers.values()]).tolist()))

    def _validate(self, reports: Reports | None) -> None:
        progress = self.progress
        numbers = self.validation(self._kept(), self.processes)
        marks = tuple(numbers[name] for name in self.task.marks)
        is_best = not progress.best or marks > progress.best
        if is_best:
            progress.best, progress.since_best = marks, 0
            self._write_weights(validation=numbers)
        else:
            progress.since_best += 1
        progress.stopped = 0 < self.config.patience <= progress.since_best
        if reports is not None:
            reports.validation(progress.step, numbers, is_best)
            if progress.stopped:
                reports.say(f"stopped: no better validation in {progress.since_best}")

    def _save(self) -> None:
        if self.validation is None:
            self._write_weights()
        if not self.processes.is_first:
            return
        # Weights come first: a run killed in between makes them again.
        parts = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.averaged is not None:
            parts["averaged"] = self.averaged.state
        save_state(self.folder / "state.pt", self.config, self.progress, **parts)

    def _write_weights(self, **notes) -> None:
        if self.processes.is_first:
            notes = {"steps_done": self.progress.step, **notes}
            save_weights(self.weights, self._kept(), training=self.task.notes(), **notes)

    def _kept(self) -> nn.Module:
        """A network with the weights that are validated and kept."""
        state = self.net.state_dict() if self.averaged is None else self.averaged.state
        kept = self.task.network().to(self.processes.device)
        kept.load_state_dict(without_tiny(state))
        return kept


class AveragedWeights:
    """A running mean of a network's weights and statistics.

    mean ← d·mean + (1 − d)·weights after every step, with a shorter memory d at the start.
    """

    def __init__(self, net: nn.Module, memory: float):
        self.memory = memory
        self.state = {name: t.detach().clone() for name, t in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """After step number `step`, counted from 0."""
        memory = min(self.memory, (1 + step) / (10 + step))
        means, news = [], []
        for name, new in net.state_dict().items():
            if new.is_floating_point():
                means.append(self.state[name])
                news.append(new)
            else:
                self.state[name].copy_(new)
        torch._foreach_lerp_(means, news, 1 - memory)

    def load(self, state: dict[str, Tensor]) -> None:
        for name, t in self.state.items():
            t.copy_(state[name])


def stream(batches: Dataset, steps: range, loaders: int) -> Iterator[dict[str, Tensor]]:
    """A task's batches of these steps, made ahead while the caller is busy, by so many processes;
    0: by a thread of this one."""
    if loaders == 0:
        yield from _by_thread(batches, steps)
        return
    # Spawned, not forked: a forked child of a process with torch threads may hang.
    yield from DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=loaders,
        multiprocessing_context="spawn",
        pin_memory=torch.cuda.is_available(),
    )


def _by_thread(batches: Dataset, steps: range, ahead: int = 2) -> Iterator[dict[str, Tensor]]:
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        todo = iter(steps)
        waiting = deque(pool.submit(batches.__getitem__, s) for s in islice(todo, ahead))
        try:
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(batches.__getitem__, s) for s in islice(todo, 1))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)


def _average_gradients(net: nn.Module, processes: Processes) -> None:
    """Replaces every gradient by its mean over the processes.

    In one piece, when all are there: the network is too small for DistributedDataParallel's
    overlap to pay, and its buckets change after the first step, so that with more than two
    processes a run that was stopped would go on with differently rounded sums.
    """
    if processes.size == 1:
        return
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    flat = processes.sum(flat) / processes.size
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(mean.view_as(gradient))
