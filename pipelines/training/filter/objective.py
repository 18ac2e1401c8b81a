"""What a step minimises: the losses of a network on a batch, and numbers for the log."""

from __future__ import annotations

import torch
from torch import Tensor

from n3match.geometry import weighted_eight_point
from n3match.matching.side_info import SIDE_INFO
from n3match.nn import MatchFilter, MatchFilterConfig, mutual_mask
from n3match.pipelines.common.processes import Processes
from n3match.pipelines.training.filter.config import TrainingConfig
from n3match.pipelines.training.filter.losses import (
    classification_loss,
    disagreement,
    essential_loss,
    geometric_loss,
)

_RATIO, _MUTUAL, _BACK_RATIO = (SIDE_INFO.index(n) for n in ("ratio", "mutual", "back_ratio"))


def importance(batch: dict[str, Tensor], positive: Tensor, config: TrainingConfig) -> Tensor:
    """Less than 1 for right matches that aren't mutual, in pairs where that is known.

    Wrong matches fall near their epipolar line by chance, and few of those are mutual.
    """
    mutual = batch["side_info"][..., _MUTUAL] > 0
    known = mutual.any(1, keepdim=True)
    doubtful = positive & ~mutual & known
    return torch.ones_like(batch["distances"]).masked_fill(doubtful, config.not_mutual)


def essential_of(batch: dict[str, Tensor], logits: Tensor) -> Tensor:
    """(B, 3, 3) by the weighted eight-point algorithm."""
    weights = torch.relu(torch.tanh(logits))
    return weighted_eight_point(batch["points0"], batch["points1"], weights, normalize=True)


def side_info_of(batch: dict[str, Tensor], config: MatchFilterConfig) -> Tensor:
    """(B, N, S) the columns of a batch's side information that a network asks for."""
    return batch["side_info"][..., [SIDE_INFO.index(name) for name in config.side_info]]


def swapped(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the network sees of a batch whose images are exchanged.

    A match is as right one way as the other. Of mutual matches the ratio and the one the other way
    round change places; of the others only the nearest in image 1 is known, and their columns stay.
    """
    side_info = batch["side_info"]
    back = side_info.clone()
    mutual = side_info[..., _MUTUAL] > 0
    for column, other in ((_RATIO, _BACK_RATIO), (_BACK_RATIO, _RATIO)):
        back[..., column] = torch.where(mutual, side_info[..., other], side_info[..., column])
    change = batch["keypoint_change"]
    return {
        "points0": batch["points1"],
        "points1": batch["points0"],
        "side_info": back,
        "keypoint_change": change * change.new_tensor([1, -1, -1]),
        "mask": batch["mask"],
    }


def run_network(net: MatchFilter, batch: dict[str, Tensor], config: TrainingConfig):
    """What the network says of a batch, its matrix products in `config.precision`.

    Half precision ends at the logits: normalisation and epipolar geometry are float32 or more.
    """
    side_info = side_info_of(batch, net.config) if config.side_info else None
    half = config.precision == "bfloat16"
    with torch.autocast(batch["points0"].device.type, torch.bfloat16, enabled=half):
        return net(
            batch["points0"], batch["points1"], side_info, batch["mask"], batch["keypoint_change"]
        )


def losses(
    net: MatchFilter,
    batch: dict[str, Tensor],
    config: TrainingConfig,
    step: int,
    processes: Processes | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total loss, and the numbers for the log: {name of NUMBERS: () over all processes}.

    The batch is this process's share; the average of the processes' losses is that of the whole.
    """
    processes = processes or Processes()
    out = run_network(net, batch, config)
    mask = mutual_mask(side_info_of(batch, net.config), net.config, batch["mask"])
    positive = (batch["distances"] < config.label_threshold) & mask
    weight = importance(batch, positive, config)
    classification = classification_loss(
        out.logits, positive, mask, config.balance, weight
    )
    total, essential = classification, classification.new_zeros(())
    # Stages that don't learn have no loss.
    learning = [logits for logits in out.earlier_logits if logits.requires_grad]
    for earlier in learning:
        looked = mask & earlier.isfinite()
        total = total + classification_loss(
            earlier, positive & looked, looked, config.balance, weight
        )
    if config.swapped_weight > 0:
        others = run_network(net, swapped(batch), config).logits
        total = total + config.swapped_weight * disagreement(out.logits, others, mask)
    geometric = torch.zeros_like(essential)
    if step >= config.essential_after:
        # Fewer than eight right matches don't determine E: nothing to learn from.
        usable = positive.sum(1) >= 8
        # The mean is over the usable pairs of all processes, of which each has its own number.
        count = usable.sum().to(essential)
        scale = count / (processes.sum(count.clone()) / processes.size).clamp(min=1e-6)
        if config.essential_weight > 0:
            essential = scale * essential_loss(out.essential, batch["E"], usable)
            total = total + config.essential_weight * essential
        if config.geometric_weight > 0:
            seen = (batch["points0"], batch["points1"], batch["E"], positive, usable)
            geometric = scale * geometric_loss(out.essential, *seen)
            total = total + config.geometric_weight * geometric
            for earlier in learning:  # what the next pass sees of each match comes of it
                before = geometric_loss(essential_of(batch, earlier), *seen)
                total = total + config.geometric_weight * scale * before
    with torch.no_grad():
        kept = (out.logits > 0) & mask
        right = (kept & positive).sum()
        counts = torch.stack([right, kept.sum(), positive.sum()]).to(essential)
        means = torch.stack([classification, essential, geometric]) / processes.size
        *means, right, kept, positive = processes.sum(torch.cat([means, counts])).unbind()
        shares = [right / kept.clamp(min=1), right / positive.clamp(min=1)]
    return total, dict(zip(NUMBERS, (*means, *shares)))


NUMBERS = ("classification", "essential", "geometric", "precision", "recall")
