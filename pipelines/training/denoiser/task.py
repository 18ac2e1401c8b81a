"""Denoisers, as a run trains them."""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from n3match.denoising import Denoiser
from n3match.denoising.denoise import accepted_sigma
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
            given = N3NetConfig(**found)
            if (given.channels, net.config.channels) == (1, 3):
                state = _for_colours(state, given)
            if net.config.maps and not given.maps:
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

    @functools.cached_property
    def teacher(self) -> Denoiser | None:
        """None where none is wanted.

        Raises:
            FileNotFoundError, ValueError: no such weights, or those of a network for other images.
        """
        config, net = self.config, self.config.net
        if not config.teacher:
            return None
        found = Denoiser.from_pretrained(config.teacher)
        if (found.config.channels, found.config.maps) != (net.channels, net.maps):
            raise ValueError(
                f"teacher: {config.teacher} is for {found.config.channels} channels and maps "
                f"{found.config.maps}, wanted {net.channels} and {net.maps}"
            )
        low, high = accepted_sigma(found.config)
        if config.noise == "gaussian" and not low <= config.sigma[0] <= config.sigma[1] <= high:
            raise ValueError(
                f"teacher: {config.teacher} is for noise of σ {low:g} … {high:g}, "
                f"wanted {config.sigma}"
            )
        return found

    def batches(self, folder: Path, processes: Processes) -> NoisyBatches:
        if self.teacher is not None:  # before anything is decoded
            self.teacher.to(processes.device)
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
        errors = missed = (out.to(clean) - clean).square().mean((1, 2, 3))
        if self.teacher is not None:
            # What it gives is the clean image but for what nobody can know: a calmer aim.
            with torch.no_grad():
                taught = self.teacher(noisy)
            part = config.teacher_share
            missed = torch.lerp(errors, (out.to(clean) - taught).square().mean((1, 2, 3)), part)
        loss = 0.5 * LOSS_PIXELS * (missed * self.weights(noisy)).mean() * share
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
        paths = ("guide", "initial", "teacher")
        names = {name: Path(getattr(config, name)).name for name in paths}
        return asdict(config) | names | {"images": [Path(folder).name for folder in config.images]}


def _weights_of(name_or_path: str, argument: str) -> tuple[dict, dict[str, Tensor]]:
    network, found, state = load_weights(name_or_path)
    if network != "N3Net":
        raise ValueError(f"{argument}: {name_or_path} holds a {network}, not a denoising network")
    return found, state


def _for_colours(state: dict[str, Tensor], grey: N3NetConfig) -> dict[str, Tensor]:
    """Of a network for colours that does to a grey image what the network for grey images does: the
    planes of the image, everywhere the first channels, three times over."""

    def thrice(t: Tensor, dim: int, share: float = 1.0) -> Tensor:
        image, others = t.split([grey.planes, t.shape[dim] - grey.planes], dim)
        return torch.cat([image * share] * 3 + [others], dim)

    out = dict(state)
    for index in range(grey.local_networks):
        layers = f"local_networks.{index}.layers"
        first, last = f"{layers}.0.weight", f"{layers}.{3 * grey.depth - 4}"
        # Behind a block the image's channels are the first of each neighbour's.
        each = (grey.neighbours + 1, grey.block_channels) if index else (1, state[first].shape[1])
        out[first] = thrice(state[first].unflatten(1, each), 2, 1 / 3).flatten(1, 2)
        out |= {f"{last}.{kind}": thrice(state[f"{last}.{kind}"], 0) for kind in ("weight", "bias")}
    for name in state:
        if name.endswith(("embedding.0.weight", "temperature.0.weight")):
            out[name] = thrice(state[name], 1, 1 / 3)
    return out


def _load(net: torch.nn.Module, state: dict[str, Tensor], where: str) -> None:
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{where} doesn't fit: {error}") from error
