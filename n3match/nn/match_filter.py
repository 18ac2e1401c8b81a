"""The filter as users hold it: a trained classifier in eval mode."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from n3match import weights
from n3match.nn import MatchClassifier, MatchFilterConfig


class MatchFilter(MatchClassifier):
    """Scores putative matches: keep those with ``logits > 0``.

    Call it with calibrated coordinates ``(points0, points1, side=None, mask=None, shape=None)``,
    see `MatchClassifier.forward`; `n3match.score_matches` takes pixels.
    """

    @property
    def side_information(self) -> tuple[str, ...]:
        """Names of the columns of `side`, e.g. ("ratio", "mutual"); it works without them too."""
        return self.config.side_information

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike = "sift", *, refinements: int | None = None
    ) -> MatchFilter:
        """Loads shipped weights by name ("sift", "sift-cnnet") or any weights file by path.

        Args:
            name_or_path: a shipped name (see `n3match.weights.shipped`), or a .safetensors file.
            refinements: how often the second pass looks at the better matches; None: as often as
                the weights say. The weights are the same, each look takes time.

        Returns:
            The filter in eval mode, on the CPU.

        Raises:
            FileNotFoundError: no such name or file. ValueError: the file holds something else, or
                a network that doesn't look so often.
        """
        network, config, state = weights.load_weights(name_or_path)
        if network not in ("MatchClassifier", "MatchFilter"):
            raise ValueError(f"name_or_path: {name_or_path} holds a {network}, not a match filter")
        if refinements is not None:
            if not config.get("refine"):
                raise ValueError(
                    f"refinements: {name_or_path} has no second pass, got {refinements}"
                )
            config = {**config, "refinements": refinements}
        try:
            net = cls(MatchFilterConfig(**config))
            net.load_state_dict(state)
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"name_or_path: {name_or_path} doesn't fit: {error}") from error
        return net.eval()

    def score_ragged(
        self,
        points0: Sequence[Tensor],
        points1: Sequence[Tensor],
        side: Sequence[Tensor] | None = None,
        shape: Sequence[Tensor] | None = None,
        *,
        batch_matches: int | None = None,
    ) -> list[Tensor]:
        """`score` for pairs that differ in their number of matches.

        Pairs of similar size are padded to one and scored together, which leaves every pair's
        logits as they would be alone.

        Args:
            points0, points1: for each pair (N_i, 2) calibrated coordinates; N_i may be 0.
            side, shape: for each pair (N_i, S) and (N_i, 3), see `MatchClassifier.forward`; None
                where it isn't known of any pair.
            batch_matches: most matches in one call, padding included, unless one pair has more.
                None: 8192 on a CPU, whose caches hold no more, else 32768.

        Returns:
            For each pair, in the order given, (N_i,) logits.

        Raises:
            ValueError, TypeError: naming the argument.
        """
        if batch_matches is None:
            on_cpu = all(points.device.type == "cpu" for points in points0)
            batch_matches = 1 << (13 if on_cpu else 15)
        if batch_matches < 1:
            raise ValueError(f"batch_matches must be at least 1, got {batch_matches}")
        columns = {"points0": points0, "points1": points1, "side": side, "shape": shape}
        columns = {name: list(c) for name, c in columns.items() if c is not None}
        lengths = [len(points) for points in columns["points0"]]
        for name, column in columns.items():
            if [len(tensor) for tensor in column] != lengths:
                raise ValueError(
                    f"{name} must have a row for each match of each pair, as points0 has "
                    f"({lengths}), got {[len(tensor) for tensor in column]}"
                )
        logits: list[Tensor] = [points.new_zeros(0) for points in columns["points0"]]
        for batch in _batches(lengths, batch_matches):
            padded = {
                name: nn.utils.rnn.pad_sequence([column[i] for i in batch], batch_first=True)
                for name, column in columns.items()
            }
            count = torch.tensor([lengths[i] for i in batch], device=padded["points0"].device)
            mask = torch.arange(int(count.max()), device=count.device) < count[:, None]
            for i, row in zip(batch, self.score(**padded, mask=mask)):
                logits[i] = row[: lengths[i]]
        return logits


def _batches(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of the pairs that have matches, longest first, cut where padding them to the first
    would exceed `most`."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not lengths[i]:
            continue
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= most:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
