"""The training loop of denoisers: one process or several, from nothing or from where it was.

A run lives in one folder: `state.pt` (everything needed to go on), `log.csv`, `images.npy` (the
decoded images) and `denoiser.safetensors`, written anew whenever the state is.
"""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from n3match.nn import N3Net, N3NetConfig
from n3match.nn.distributed import synchronise_statistics
from n3match.pipelines.common.processes import Processes, joined_processes
from n3match.pipelines.training.averaged import AveragedWeights
from n3match.pipelines.training.checkpoint import load_checkpoint, save_checkpoint
from n3match.pipelines.training.denoiser_batches import NoisyBatches
from n3match.pipelines.training.denoiser_config import DenoiserTraining, learning_rate
from n3match.pipelines.training.filter_loop import average_gradients
from n3match.pipelines.training.reports import Reports
from n3match.weights import load_weights, save_weights
from n3match.weights.tiny import without_tiny

_MOST_SKIPPED = 100  # steps without finite gradients
# Of the convolutions that see images and maps.
_FIRST = ("local_networks.0.layers.0.weight", "guide.layers.0.weight")
_LEAST_SIGMA = 2.0  # added to σ where a weight is 1/σ, 8-bit units
_LOSS_PIXELS = 1600  # the published loss: ½ Σ error² as if an image had so many pixels


def train(
    config: DenoiserTraining,
    folder: Path,
    *,
    save_every: int = 100,
    device: str | torch.device | None = None,
) -> Path:
    """Runs, or goes on with, the training in `folder`; returns the path of the weights.

    Raises:
        ValueError: the folder holds a run with other options; unusable images or weights.
        RuntimeError: too many steps without finite gradients.
    """
    with joined_processes(device) as processes:
        return _Run(config, Path(folder), processes, save_every).run()


class _Run:
    def __init__(
        self, config: DenoiserTraining, folder: Path, processes: Processes, save_every: int
    ):
        self.config, self.folder, self.processes = config, folder, processes
        self.save_every = save_every
        smallest = min(stage.batch for stage in config.crops)
        if smallest < processes.size:
            raise ValueError(
                f"crops: {smallest} in a step are too few for {processes.size} processes"
            )
        # Trained weights hold tiny numbers; denormal arithmetic is many times slower on a CPU.
        torch.set_flush_denormal(True)
        folder.mkdir(parents=True, exist_ok=True)
        state = _load_state(folder / "state.pt", config)
        if processes.is_first:
            self.batches = NoisyBatches(config, folder / "images.npy")
        processes.wait()
        if not processes.is_first:  # the first has decoded the images
            self.batches = NoisyBatches(config, folder / "images.npy")
        torch.manual_seed(config.seed)
        self.net = new_network(config)
        self.step, self.skipped = 0, 0
        if state is not None:
            self.net.load_state_dict(state["net"])
            self.step, self.skipped = state["step"], state["skipped"]
        self.net.to(processes.device, memory_format=torch.channels_last).train()
        synchronise_statistics(self.net, processes.group)
        guide = set() if self.net.guide is None else set(self.net.guide.modules())
        norms = (m for m in self.net.modules() if isinstance(m, torch.nn.BatchNorm2d))
        self.norms = [norm for norm in norms if norm not in guide]
        self.averaged = AveragedWeights(self.net, config.ema)
        self.optimizer = _optimizer(self.net, config)
        if state is not None:
            self.averaged.load(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])

    def run(self) -> Path:
        config, processes = self.config, self.processes
        path = self.folder / "denoiser.safetensors"
        if self.step and not path.exists():
            self._save(path)  # lost: only its state is still there
        reports = Reports(self.folder, self.step, config.steps) if processes.is_first else None
        try:
            # The next batch is made by a thread while the network is busy.
            with ThreadPoolExecutor(1) as thread:
                coming = thread.submit(self.batches.batch, self.step, *self._share)
                while self.step < config.steps:
                    batch = coming.result()
                    coming = thread.submit(self.batches.batch, self.step + 1, *self._share)
                    numbers = self._do_step(*batch)
                    if reports is not None:
                        reports.step(self.step, numbers)
                    self.step += 1
                    if self.step % self.save_every == 0 or self.step == config.steps:
                        self._save(path)
        finally:
            if reports is not None:
                reports.close()
        processes.wait()
        return path

    @property
    def _share(self) -> tuple[int, int]:
        return self.processes.rank, self.processes.size

    def _do_step(self, noisy: Tensor, clean: Tensor) -> dict[str, float]:
        config, net, device = self.config, self.net, self.processes.device
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config)
        noisy = noisy.to(device, memory_format=torch.channels_last, non_blocking=True)
        clean = clean.to(device, non_blocking=True)
        # Noise of the Concrete block: the same again after a stop, another in each process.
        torch.manual_seed((config.seed * config.steps + self.step) * 1009 + self.processes.rank)
        for norm in self.norms:
            norm.train(self.step < config.steps - config.frozen_steps)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            out = net(noisy, neighbours=self.step >= config.local_steps)
        # Shares of a batch may differ by a crop: the mean of all is weighted by theirs.
        share = len(clean) * self.processes.size / config.stage(self.step).batch
        errors = (out.to(clean) - clean).square().mean((1, 2, 3))
        loss = 0.5 * _LOSS_PIXELS * (errors * self._weights(noisy)).mean() * share
        error = errors.detach().mean() * share
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(net, self.processes)
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip or float("inf"))
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
            self.averaged.update(net, self.step)
        else:
            self.skipped += 1
            if self.skipped > _MOST_SKIPPED:
                raise RuntimeError(
                    f"training diverged: {self.skipped} steps without finite gradients"
                )
        before = (noisy[:, : clean.shape[1]] - clean).square().mean() * share
        means = torch.stack([loss.detach(), error, before])
        loss, error, before = (self.processes.sum(means) / self.processes.size).tolist()
        return {
            "loss": loss,
            "psnr": _psnr(error),
            "gain": _psnr(error) - _psnr(before),
            "gradient_norm": norm.item(),
        }

    def _weights(self, noisy: Tensor) -> Tensor:
        """(B,) of the crops in the loss: of a range of σ, about 1/σ.

        The squared error left in a denoised image grows about as σ. Unweighted, the noisiest crops
        would have all the say; so each level counts alike, as in a mean of PSNRs.
        """
        low, high = self.config.sigma
        if self.config.noise != "gaussian" or low == high:
            return noisy.new_ones(len(noisy))
        sigma = 255 * noisy[:, self.config.channels, 0, 0]
        return high / 2 / (sigma + _LEAST_SIGMA)

    def _save(self, path: Path) -> None:
        if not self.processes.is_first:
            return
        # Weights first: a run killed in between makes them again.
        kept = N3Net(self.net.config)
        kept.load_state_dict(without_tiny(self.averaged.state))
        save_weights(path, kept, training=_notes(self.config), steps_done=self.step)
        save_checkpoint(
            self.folder / "state.pt",
            {
                "config": _as_text(self.config),
                "net": self.net.state_dict(),
                "averaged": self.averaged.state,
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "skipped": self.skipped,
            },
        )


def new_network(config: DenoiserTraining) -> N3Net:
    """The network that a run starts from.

    Raises:
        FileNotFoundError, ValueError: no such weights, or those of another network.
    """
    net = N3Net(config.net)
    if config.local_steps:
        # Blocks come later: the networks behind them start by not looking at neighbours.
        for local in list(net.local_networks)[1:]:
            torch.nn.init.zeros_(local.layers[0].weight[:, config.net.block_channels :])
    if config.guide:
        found, state = _weights_of(config.guide, "guide")
        wanted = N3NetConfig(**found)
        if wanted.local_networks != 1 or wanted.depth != config.net.guide_depth:
            raise ValueError(
                f"guide: wanted one DnCNN of depth {config.net.guide_depth}, {config.guide} has "
                f"{wanted.local_networks} of depth {wanted.depth}"
            )
        own = {n.removeprefix("local_networks.0."): t for n, t in state.items()}
        _load(net.guide, own, f"guide: {config.guide}")
    if config.initial:
        found, state = _weights_of(config.initial, "initial")
        if net.config.maps and not N3NetConfig(**found).maps:
            # Weights that don't know of maps yet: they start by not looking at them.
            for name in set(_FIRST) & set(state):
                first = state[name]
                more = first.new_zeros(len(first), len(net.config.maps), *first.shape[2:])
                state[name] = torch.cat([first, more], 1)
        _load(net, state, f"initial: {config.initial}")
    return net


def _weights_of(name_or_path: str, argument: str) -> tuple[dict, dict[str, Tensor]]:
    network, found, state = load_weights(name_or_path)
    if network != "N3Net":
        raise ValueError(f"{argument}: {name_or_path} holds a {network}, not a denoising network")
    return found, state


def _load(net: torch.nn.Module, state: dict[str, Tensor], where: str) -> None:
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{where} doesn't fit: {error}") from error


def _optimizer(net: N3Net, config: DenoiserTraining) -> torch.optim.Optimizer:
    learned = [p for p in net.parameters() if p.requires_grad]
    # Decay kills norm gains for good, as it did in the published weights.
    decayed = [p for p in learned if p.ndim == 4]
    others = [p for p in learned if p.ndim != 4]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.rate,
    )


def _as_text(config: DenoiserTraining) -> str:
    return json.dumps(asdict(config))


def _notes(config: DenoiserTraining) -> dict:
    """Only names: where files lay on the machine that trained is nobody's business."""
    names = {n: Path(getattr(config, n)).name for n in ("guide", "initial")}
    return asdict(config) | names | {"images": [Path(folder).name for folder in config.images]}


def _load_state(path: Path, config: DenoiserTraining) -> dict | None:
    if not path.exists():
        return None
    state = load_checkpoint(path, torch.device("cpu"))
    missing = {"config", "net", "averaged", "optimizer", "step", "skipped"} - set(state)
    if missing:
        raise ValueError(f"{path} is no state of a denoiser's training: it has no {missing}")
    if state["config"] != _as_text(config):
        raise ValueError(
            f"{path.parent} holds a run with other options: {state['config']}; "
            "give the same ones, or another folder"
        )
    return state


def _psnr(error: float) -> float:
    return -10 * math.log10(max(error, 1e-12))
