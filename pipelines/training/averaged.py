"""A running mean of a network's weights and statistics: what is kept of a training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AveragedWeights:
    """mean ← d·mean + (1 − d)·weights after every step, with a shorter memory d at the start.

    Args:
        net: whose weights and statistics they are.
        memory: d in [0, 1).
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
