"""Denoisers, as a run trains them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from n3match.nn import N3Net, N3NetConfig
from n3match.pipelines.common.processes import Processes
from n3match.pipelines.training.denoiser.batches import NoisyBatches
from n3match.pipelines.training.denoiser.config import DenoiserTraining
from n3match.pipelines.training.run import Task
from n3match.weights import load_weights

# Of the convolutions that see images and maps.
_FIRST = ("local_networks.0.layers.0.weight", "guide.layers.0.weight")
_LEAST_SIGMA = 2.0  # added to σ where a weight is 1/σ, 8-bit units
LOSS_PIXELS = 1600  # the published loss: ½ Σ error² as if an image had so many pixels


class DenoiserTask(Task):
    """Clean images from noisy ones."""

    name = "denoiser"
    config: DenoiserTraining

    def __init__(self, config: DenoiserTraining):
        self.config = config

    def network(self) -> N3Net:
        return N3Net(self.config.net).to(memory_format=torch.channels_last)

    def initialise(self, net: N3Net) -> None:
        config = self.config
        if config.local_steps:
            # Blocks come later: the networks behind them start by not looking at neighbours.
            for local in list(net.local_networks)[1:]:
                torch.nn.init.zeros_(local.layers[0].weight[:, config.net.block_channels :])
        if config.guide:
            found, state = _weights_of(config.guide, "guide")
            wanted = N3NetConfig(**found)
            if wanted.local_networks != 1 or wanted.depth != config.net.guide_depth:
                raise ValueError(
                    f"guide: wanted one DnCNN of depth {config.net.guide_depth}, {config.guide} "
                    f"has {wanted.local_networks} of depth {wanted.depth}"
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

    def optimizer(self, net: N3Net) -> torch.optim.Optimizer:
        learned = [p for p in net.parameters() if p.requires_grad]
        # Decay kills norm gains for good, as it did in the published weights.
        decayed = [p for p in learned if p.ndim == 4]
        others = [p for p in learned if p.ndim != 4]
        return torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.config.decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.config.rate,
        )

    def batches(self, folder: Path, processes: Processes) -> NoisyBatches:
        if not processes.is_first:  # which decodes the images
            processes.wait()
        cache = folder / "images.npy"
        batches = NoisyBatches(self.config, cache, processes.rank, processes.size)
        if processes.is_first:
            processes.wait()
        return batches

    def losses(
        self, net: N3Net, batch: dict[str, Tensor], step: int, processes: Processes
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config, clean = self.config, batch["clean"]
        noisy = batch["noisy"].to(memory_format=torch.channels_last)
        guide = set() if net.guide is None else set(net.guide.modules())
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d) and module not in guide:
                module.train(step < config.steps - config.frozen_steps)
        half = config.precision == "bfloat16"
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=half):
            out = net(noisy, neighbours=step >= config.local_steps)
        # Shares of a batch may differ by a crop: the mean of all is weighted by theirs.
        share = len(clean) * processes.size / config.stage(step).batch
        errors = (out.to(clean) - clean).square().mean((1, 2, 3))
        loss = 0.5 * LOSS_PIXELS * (errors * self.weights(noisy)).mean() * share
        error = errors.detach().mean() * share
        before = (noisy[:, : clean.shape[1]] - clean).square().mean() * share
        means = processes.sum(torch.stack([loss.detach(), error, before])) / processes.size
        psnr, psnr_before = (-10 * torch.log10(means[1:].clamp(min=1e-12))).unbind()
        return loss, {"loss": means[0], "psnr": psnr, "gain": psnr - psnr_before}

    def weights(self, noisy: Tensor) -> Tensor:
        """(B,) of the crops in the loss: of a range of σ, about 1/σ.

        The squared error left in a denoised image grows about as σ. Unweighted, the noisiest crops
        would have all the say; so each level counts alike, as in a mean of PSNRs.
        """
        low, high = self.config.sigma
        if self.config.noise != "gaussian" or low == high:
            return noisy.new_ones(len(noisy))
        sigma = 255 * noisy[:, self.config.channels, 0, 0]
        return high / 2 / (sigma + _LEAST_SIGMA)

    def notes(self) -> dict:
        # Only names: where files lay on the machine that trained is nobody's business.
        config = self.config
        names = {name: Path(getattr(config, name)).name for name in ("guide", "initial")}
        return asdict(config) | names | {"images": [Path(folder).name for folder in config.images]}


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
