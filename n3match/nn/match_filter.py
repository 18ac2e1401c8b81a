"""The match filter: CNNet (Yi et al., CVPR 2018) and its N³ version, one class configured.

A linear layer lifts each match (x0, y0, x1, y1, side information, change of its keypoints) to
`width` channels; residual blocks of two per-match linear layers follow, each with context
normalisation, batch normalisation and ReLU; a linear head gives a logit per match. With
`n3_after`, the block before each N³ block narrows to width/(K+1) channels, so that features and K
neighbours together are `width` again.

The published networks are the defaults: ``MatchFilterConfig()`` is N³ after block 6 of 12,
``MatchFilterConfig(n3_after=())`` is CNNet. With `refine`, a second network goes over the better
matches again, once or, with `refinements`, several times (`passes`). With `pruning`, another
network stands in the place of both (`pruning`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from n3match.arguments import check_moderate, dense_tensor, sequence, whole
from n3match.geometry import weighted_eight_point
from n3match.matching.side_info import CHANGE_COLUMNS
from n3match.nn.config import COORDINATES, MatchFilterConfig
from n3match.nn.passes import Refinement, Trunk, mutual_mask, on_chosen
from n3match.nn.pruning import PruningNetwork
from n3match.ops.checks import may_look
from n3match.weights.store import build, load_weights

_NOT_MUTUAL = -8.0  # the logit of a match that isn't looked at
_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class FilterOutput:
    """What a filter says of B pairs of N matches."""

    logits: Tensor  # (B, N); positive: keep. −inf where the mask is False
    weights: Tensor  # (B, N) relu(tanh(logits)), in [0, 1)
    essential: Tensor  # (B, 3, 3) weighted eight-point, unit norm: x1ᵀ E x0 = 0
    # (B, N) of the passes before the last, if any; −inf where a stage of pruning didn't look
    earlier_logits: tuple[Tensor, ...]


class MatchFilter(nn.Module):
    """Tells right from wrong putative matches: keep those with a logit above 0.

    Invariant to the order of a pair's matches, for any number of them. It is called with
    calibrated coordinates, see `forward`; `n3match.match_logits` takes pixels. A new one has random
    weights; `from_pretrained` loads trained ones.

    After `.half()` or `.bfloat16()`, in eval mode, its matrix products are in that type on a GPU;
    on a CPU, which wins nothing by it, in float32, as the epipolar geometry is on either.

    Args:
        config: what it is built from; None for `MatchFilterConfig()`.
    """

    def __init__(self, config: MatchFilterConfig | None = None):
        super().__init__()
        self.config = config = config or MatchFilterConfig()
        self.pruning = PruningNetwork(config) if config.pruning is not None else None
        self.trunk = Trunk(config.columns, config) if config.pruning is None else None
        self.refinement = Refinement(config.columns, config) if config.refine else None

    @property
    def side_info(self) -> tuple[str, ...]:
        """Names of the columns of side information, e.g. ("ratio", "mutual"); it works without."""
        return self.config.side_info

    @property
    def dtype(self) -> torch.dtype:
        """What it computes epipolar geometry in, and wants of its inputs: the type of its weights,
        float32 where these are in half precision."""
        dtype = next(self.parameters()).dtype
        return torch.float32 if dtype in _HALVES else dtype

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike = "sift", *, refinements: int | None = None
    ) -> MatchFilter:
        """Loads shipped weights by name ("sift", "sift-cnnet") or any weights file by path.

        Args:
            name_or_path: a shipped name (see `n3match.weights.shipped`), or a .safetensors file.
            refinements: how many refinement passes go over the better matches; None: as many as
                the weights say. The weights are the same, each pass takes time.

        Returns:
            The filter in eval mode, on the CPU.

        Raises:
            FileNotFoundError: no such name or file. ValueError: the file holds something else, or
                a network without refinement passes.
        """
        network, config, state = load_weights(name_or_path)
        if network != "MatchFilter":
            raise ValueError(f"name_or_path: {name_or_path} holds a {network}, not a match filter")
        if refinements is not None:
            if not config.get("refine"):
                raise ValueError(
                    f"refinements: {name_or_path} has no refinement pass, got {refinements}"
                )
            config = {**config, "refinements": refinements}
        net = build(cls, MatchFilterConfig, config, state, f"name_or_path: {name_or_path}")
        return net.eval()

    def forward(
        self,
        points0: Tensor,
        points1: Tensor,
        side_info: Tensor | None = None,
        mask: Tensor | None = None,
        keypoint_change: Tensor | None = None,
    ) -> FilterOutput:
        """What the filter says of B pairs of N matches.

        Args:
            points0, points1: (B, N, 2) calibrated coordinates (K⁻¹ applied) of each match.
            side_info: (B, N, S) side information, columns named by `side_info` of the filter, or
                the first of them; None or a column less: it isn't known, and neutral.
            mask: (B, N) bool, True for real matches, False for padding.
            keypoint_change: (B, N, 3) how the keypoints turn and change their size, see
                `n3match.matching.keypoint_change`; None where it isn't known. Only for networks
                with `config.keypoint_change`; others don't look at it.

        Returns:
            `FilterOutput` of (B, N) logits and weights and (B, 3, 3) essential matrices.

        Raises:
            ValueError, TypeError: for shapes and types that don't fit, and on a CPU for numbers
                that aren't finite or are beyond ±1e9, naming the argument. On a GPU nothing waits
                for values: there NaN gives NaN.
        """
        matches = self._inputs(points0, points1, side_info, mask, keypoint_change)
        *earlier, logits = self._logits(matches, mask)
        matches = matches.to(logits.dtype)
        with torch.autocast(matches.device.type, enabled=False):
            weights = torch.relu(torch.tanh(logits))
            essential = weighted_eight_point(
                matches[..., :2], matches[..., 2:4], weights, normalize=True
            )
        return FilterOutput(logits, weights, essential, tuple(earlier))

    def logits(
        self,
        points0: Tensor,
        points1: Tensor,
        side_info: Tensor | None = None,
        mask: Tensor | None = None,
        keypoint_change: Tensor | None = None,
    ) -> Tensor:
        """The logits of `forward` alone, (B, N), without the eight-point algorithm.

        Args:
            points0, points1, side_info, mask, keypoint_change: as in `forward`.

        Raises:
            ValueError, TypeError: as there.
        """
        matches = self._inputs(points0, points1, side_info, mask, keypoint_change)
        return self._logits(matches, mask)[-1]

    def logits_of_many(
        self,
        points0: Sequence[Tensor],
        points1: Sequence[Tensor],
        side_info: Sequence[Tensor] | None = None,
        keypoint_change: Sequence[Tensor] | None = None,
        *,
        batch_matches: int | None = None,
    ) -> list[Tensor]:
        """`logits` of pairs that differ in their number of matches.

        Pairs of similar size are padded to one and go through the network together, which leaves
        every pair's logits as they would be alone.

        Args:
            points0, points1: for each pair (N_i, 2) calibrated coordinates; N_i may be 0.
            side_info, keypoint_change: for each pair (N_i, S) and (N_i, 3), see `forward`; None
                where it isn't known of any pair.
            batch_matches: most matches in one call, padding included, unless one pair has more.
                None: 8192 on a CPU, whose caches hold no more, else 32768.

        Returns:
            For each pair, in the order given, (N_i,) logits.

        Raises:
            ValueError, TypeError: naming the argument.
        """
        given = {
            "points0": points0, "points1": points1,
            "side_info": side_info, "keypoint_change": keypoint_change,
        }
        columns = {
            name: list(sequence(name, c, "tensors"))
            for name, c in given.items() if c is not None or name in ("points0", "points1")
        }
        for name, column in columns.items():
            for tensor in column:
                if dense_tensor(name, tensor).ndim != 2:
                    raise ValueError(
                        f"{name} must hold a tensor (N, C) for each pair, got one of shape "
                        f"{tuple(tensor.shape)}"
                    )
        if batch_matches is None:
            on_cpu = all(points.device.type == "cpu" for points in columns["points0"])
            batch_matches = 1 << (13 if on_cpu else 15)
        batch_matches = whole("batch_matches", batch_matches, 1)
        lengths = [len(points) for points in columns["points0"]]
        for name, column in columns.items():
            if [len(tensor) for tensor in column] != lengths:
                raise ValueError(
                    f"{name} must have a row for each match of each pair, as points0 has "
                    f"({lengths}), got {[len(tensor) for tensor in column]}"
                )
            if len({(tensor.shape[1], tensor.dtype, tensor.device) for tensor in column}) > 1:
                raise ValueError(
                    f"{name} must hold tensors of one type, device and number of columns, got "
                    f"{sorted({(str(t.dtype), str(t.device), t.shape[1]) for t in column})}"
                )
        logits: list[Tensor] = [points.new_zeros(0) for points in columns["points0"]]
        for batch in _batches(lengths, batch_matches):
            padded = {
                name: nn.utils.rnn.pad_sequence([column[i] for i in batch], batch_first=True)
                for name, column in columns.items()
            }
            mask = None
            if len({lengths[i] for i in batch}) > 1:
                count = torch.tensor([lengths[i] for i in batch])
                mask = torch.arange(int(count.max())) < count[:, None]
                mask = mask.to(padded["points0"].device, non_blocking=True)
            for i, row in zip(batch, self.logits(**padded, mask=mask)):
                logits[i] = row[: lengths[i]]
        return logits

    def _logits(self, matches: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """Logits (B, N) of each pass, in their order; −inf where the mask is False."""
        dtype = next(self.parameters()).dtype
        if dtype in _HALVES and not self.training:
            state = {f"net.{k}": v.float() for k, v in self.state_dict(keep_vars=True).items()}
            with torch.autocast(matches.device.type, dtype, matches.device.type != "cpu"):
                return functional_call(_InFull(self), state, (matches.float(), mask))
        return self._logits_in_full(matches, mask)

    def _logits_in_full(self, matches: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        if not self.config.mutual_only or not matches.shape[1]:
            return self._passes(matches, mask)
        left_out = matches.new_full(matches.shape[:2], _NOT_MUTUAL)
        if mask is not None:
            left_out = left_out.masked_fill(~mask, float("-inf"))
        chosen = mutual_mask(matches[..., COORDINATES:], self.config, mask)
        return on_chosen(self._passes, matches, chosen, left_out)

    def _passes(self, matches: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        if self.pruning is not None:
            return self.pruning(matches, mask)
        # Under autocast the head answers in half precision; what follows is epipolar geometry.
        assert self.trunk is not None
        logits = self.trunk(matches, mask).to(matches.dtype)
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        passes = [logits]
        if self.refinement is not None and matches.shape[1]:
            for _ in range(self.config.refinements):
                passes.append(self.refinement(matches, passes[-1], mask))
        return tuple(passes)

    def _inputs(
        self,
        points0: Tensor,
        points1: Tensor,
        side_info: Tensor | None,
        mask: Tensor | None,
        keypoint_change: Tensor | None,
    ) -> Tensor:
        """(B, N, C) all that is known of each match; zeros where the mask is False."""
        config = self.config
        _check(config, points0, points1, side_info, mask, keypoint_change)
        columns = [points0, points1]
        if config.side_info:
            known = 0
            if side_info is not None:
                columns.append(side_info)
                known = side_info.shape[-1]
            shape = (*points0.shape[:2], 1)
            columns += [points0.new_full(shape, x) for x in config.neutral_side_info[known:]]
        if config.keypoint_change:
            if keypoint_change is None:
                keypoint_change = points0.new_zeros(*points0.shape[:2], CHANGE_COLUMNS)
            columns.append(keypoint_change)
        matches = torch.cat(columns, -1)
        wanted = next(self.parameters()).dtype
        if (
            matches.dtype != wanted
            and wanted not in _HALVES
            and not torch.is_autocast_enabled(matches.device.type)
        ):
            given = " and ".join(str(column.dtype) for column in columns)
            raise TypeError(
                f"points0, points1, side_info and keypoint_change must be {wanted} as the "
                f"filter's weights are, got {given}"
            )
        return matches if mask is None else matches.masked_fill(~mask[..., None], 0.0)


class _InFull(nn.Module):
    """A filter's logits, as a module that `functional_call` lends weights of another type."""

    def __init__(self, net: MatchFilter):
        super().__init__()
        self.net = net

    def forward(self, matches: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        return self.net._logits_in_full(matches, mask)


def _check(
    config: MatchFilterConfig,
    points0: Tensor,
    points1: Tensor,
    side_info: Tensor | None,
    mask: Tensor | None,
    keypoint_change: Tensor | None,
) -> None:
    for name, points in (("points0", points0), ("points1", points1)):
        dense_tensor(name, points)
        if points.ndim != 3 or points.shape[-1] != 2:
            raise ValueError(f"{name} must have shape (B, N, 2), got {tuple(points.shape)}")
        if not points.dtype.is_floating_point:
            raise TypeError(f"{name} must be floating point, got {points.dtype}")
    b, n, _ = points0.shape
    if points1.shape != points0.shape:
        raise ValueError(
            "points0 and points1 must have one shape, "
            f"got {tuple(points0.shape)} and {tuple(points1.shape)}"
        )
    known = {"side_info": side_info, "keypoint_change": keypoint_change}
    counts = {"side_info": len(config.side_info), "keypoint_change": CHANGE_COLUMNS}
    for name, found in known.items():
        wanted = (b, n, counts[name])
        if found is None:
            continue
        if not dense_tensor(name, found).dtype.is_floating_point:
            raise TypeError(f"{name} must be floating point, got {found.dtype}")
        if tuple(found.shape) == wanted:
            continue
        columns = ""
        if name == "side_info":
            columns = f" with columns {config.side_info} or the first of them"
            if found.ndim == 3 and found.shape[:2] == (b, n) and found.shape[2] < counts[name]:
                continue
        raise ValueError(
            f"{name} must have shape (B, N, {counts[name]}) = {wanted}{columns}, "
            f"got {tuple(found.shape)}"
        )
    if mask is not None:
        dense_tensor("mask", mask)
    if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != (b, n)):
        raise ValueError(
            f"mask must be bool of shape (B, N) = {(b, n)}, got {mask.dtype} {tuple(mask.shape)}"
        )
    if not may_look(points0):
        return
    for name, tensor in {"points0": points0, "points1": points1, **known}.items():
        if tensor is None:
            continue
        check_moderate(name, tensor if mask is None else tensor[mask])


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
