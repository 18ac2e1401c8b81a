"""The training loop: one process or several, from nothing or from where it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from n3match.nn import MatchFilter
from n3match.nn.distributed import synchronise_statistics
from n3match.pipelines.common.processes import Processes, joined_processes
from n3match.pipelines.training import objective
from n3match.pipelines.training.averaged import AveragedWeights
from n3match.pipelines.training.filter_config import TrainingConfig, learning_rate
from n3match.pipelines.training.reports import Reports
from n3match.pipelines.training.run_folder import (
    Progress,
    load_initial,
    load_state,
    save_filter,
    save_state,
    with_refinements,
)
from n3match.pipelines.training.sources import TrainingBatches, stream
from n3match.pipelines.training.validation import MARKS, Validation
from n3match.whole_file import whole_file

_MOST_SKIPPED = 100  # steps without finite gradients


def train(
    config: TrainingConfig,
    folder: Path,
    *,
    save_every: int = 100,
    device: str | torch.device | None = None,
    loaders: int = 0,
) -> Path:
    """Runs, or goes on with, the training in `folder`.

    Under `torchrun` each process takes a share of every batch; gradients and batch statistics are
    those of the whole, so the result is that of one process up to rounding.

    Args:
        config: what determines the curve.
        folder: of the run, seen by the first process; all need the stores.
        save_every: steps between states.
        device: None: a GPU where there is one.
        loaders: processes that make batches, for each that trains; 0: a thread.

    Returns:
        The path of the weights: the best by validation, the last where there is none.

    Raises:
        ValueError: the folder holds a run with other options; a bad store.
        RuntimeError: too many steps without finite gradients.
    """
    with joined_processes(device) as processes:
        return _Run(config, Path(folder), processes, save_every, loaders).run()


class _Run:
    def __init__(
        self,
        config: TrainingConfig,
        folder: Path,
        processes: Processes,
        save_every: int,
        loaders: int,
    ):
        if processes.is_first:  # which alone need see the weights to start from
            config = with_refinements(config)
        config = processes.from_first(config)
        self.config, self.folder, self.processes = config, folder, processes
        self.save_every, self.loaders = save_every, loaders
        self.batches = TrainingBatches(config, processes.rank, processes.size)
        self.validation = None
        if config.validation:
            self.validation = Validation(
                config.validation, config.validation_estimator, config.validation_pairs
            )
        # Trained weights hold tiny numbers; denormal arithmetic is many times slower on a CPU.
        torch.set_flush_denormal(True)
        torch.manual_seed(config.seed)
        self.net = MatchFilter(config.classifier)
        state = None
        if processes.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            state = load_state(folder / "state.pt", config)
            if state is None and config.initial:
                load_initial(self.net, config.initial)
        # The first process alone need see the folder and the weights to start from.
        state = processes.from_first(state)
        self.net.load_state_dict(
            processes.from_first(self.net.state_dict()) if state is None else state["net"]
        )
        self.net.to(processes.device).train()
        synchronise_statistics(self.net, processes.group)
        self.averaged = AveragedWeights(self.net, config.ema) if config.ema else None
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=config.rate)
        self.progress = Progress()
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            if self.averaged is not None:
                self.averaged.load(state["averaged"])
            progress = state["progress"]
            self.progress = Progress(**{**progress, "best": tuple(progress["best"])})

    def run(self) -> Path:
        config, progress = self.config, self.progress
        reports = None
        if self.processes.is_first:
            reports = Reports(self.folder, progress.step, config.steps)
        # Batches are made ahead while the network is busy.
        batches = stream(self.batches, progress.step, self.loaders)
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
        path = self.folder / "filter.safetensors"
        if self.processes.is_first:
            if self.validation is None:
                save_filter(path, self._kept(), config)
            else:
                with whole_file(path) as temporary:
                    shutil.copyfile(self.folder / "best.safetensors", temporary)
        self.processes.wait()
        return path

    def _step(self, step: int, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        config, net = self.config, self.net
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        batch = {k: v.to(self.processes.device, non_blocking=True) for k, v in batch.items()}
        total, numbers = objective.losses(net, batch, config, step, self.processes)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        average_gradients(net, self.processes)
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip or float("inf"))
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
            if self.averaged is not None:
                self.averaged.update(self.net, step)
        else:
            self.progress.skipped += 1
            if self.progress.skipped > _MOST_SKIPPED:
                raise RuntimeError(
                    f"training diverged: {self.progress.skipped} steps without finite gradients"
                )
        return {**numbers, "gradient_norm": norm.item()}

    def _validate(self, reports: Reports | None) -> None:
        progress = self.progress
        kept = self._kept()
        numbers = self.validation(kept, self.processes)
        marks = tuple(numbers[name] for name in MARKS)
        is_best = not progress.best or marks > progress.best
        if is_best:
            progress.best, progress.since_best = marks, 0
        else:
            progress.since_best += 1
        progress.stopped = 0 < self.config.patience <= progress.since_best
        if not self.processes.is_first:
            return
        if is_best:
            path = self.folder / "best.safetensors"
            save_filter(path, kept, self.config, steps_done=progress.step, validation=numbers)
        reports.validation(progress.step, numbers, is_best)
        if progress.stopped:
            reports.say(f"stopped: no better validation in {progress.since_best}")

    def _save(self) -> None:
        if self.processes.is_first:
            path = self.folder / "state.pt"
            save_state(
                path, self.config, self.net, self.optimizer, self.progress, self.averaged
            )

    def _kept(self) -> MatchFilter:
        """The network whose weights are validated and kept."""
        if self.averaged is None:
            return self.net
        kept = MatchFilter(self.config.classifier).to(self.processes.device)
        kept.load_state_dict(self.averaged.state)
        return kept


def average_gradients(net: torch.nn.Module, processes: Processes) -> None:
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
