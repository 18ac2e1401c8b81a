"""The public face of the operator: arguments checked and cast, backend chosen, result out.

What every call goes through, once: checks; numbers and half precision made what the backend takes;
the choice of the backend (`dispatch`); empty calls; the seed of the noise.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from n3match.arguments import flag
from n3match.ops import candidates as explicit
from n3match.ops import checks, dispatch, reference
from n3match.ops.custom_op import widest
from n3match.ops.dense import op as dense
from n3match.ops.noise import draw_seed
from n3match.ops.window import op as windows

_HALF = (torch.float16, torch.bfloat16)


def n3_aggregate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    log_temperature: float | Tensor = 0.0,
    candidates: Tensor | None = None,
    mask: Tensor | None = None,
    exclude_self: bool = False,
    *,
    recursion: str = "released",
    selection: str = "n3",
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> Tensor:
    """K soft nearest neighbours of every query, among all database items or its own candidates.

    zᵏ = Σ_i wᵏ_i value_i, with wᵏ as defined in `n3match.ops.reference` (Plötz & Roth, 2018).

    Args:
        query: (B, M, E) query embeddings, floating point.
        key: (B, N, E) database embeddings, same type and device.
        value: (B, N, F) features that are averaged.
        k: number of neighbours K ≥ 1. May exceed the number of candidates: the later
            distributions are then what the formula gives (see `reference`), finite in any case.
        log_temperature: log t of each query: a number, or (B, M, 1). Not NaN.
        candidates: (B, M, O) int64 numbers of the items that each query may select; an item named
            twice counts as two candidates. None: all N items. Numbers of no item are an error; the
            Triton kernels, which don't wait for a device to look, take them for masked ones.
        mask: (B, N) bool, True where an item may be selected (False: padding). Masked items get
            exactly zero gradient. A query without candidates gives 0.
        exclude_self: query i may not select item i (needs M = N).
        recursion: "released" (a¹ = −d/t; default) or "poster" (t also divides the log term).
        selection: "n3", or "knn" (hard: the k-th nearest itself; gradients reach `value` only), or
            "concrete" (N³ with Gumbel noise on −d).
        generator: of that noise; None: no noise. It moves on by one number for each call, and the
            same state gives the same noise on every backend.
        backend: None chooses "triton" for CUDA tensors where it serves the call and has passed a
            trial on the device, else "tiled"; a name forces: "triton", "tiled" or "reference".

    Returns:
        (B, M, K, F), finite for finite input.

    Raises:
        ValueError, TypeError: naming the argument, what was found and what was wanted.
    """
    checks.check_rule(k, recursion, selection, generator)
    k, exclude_self = operator.index(k), flag("exclude_self", exclude_self)
    query, key, value = widest(query, key, value)
    checks.check_aggregate(query, key, value, mask, exclude_self, candidates)
    b, m, _ = query.shape
    log_t = checks.as_log_temperature(log_temperature, b, m, query)
    if candidates is None:
        refusal = dispatch.dense_refusal(query, k, recursion, selection, generator)
        name = dispatch.choose(backend, refusal, "dense", query)
    else:
        refusal = dispatch.candidates_refusal(query, k, candidates, recursion)
        name = dispatch.choose(backend, refusal, _form("candidates", selection, generator), query)
        if name != "triton" or checks.may_look(candidates):
            checks.check_numbers_of_items(candidates, key.shape[1])
    seed = draw_seed(generator)
    items = key.shape[1] if candidates is None else candidates.shape[2]
    if b * m * items * value.shape[2] == 0:
        return value.new_zeros(b, m, k, value.shape[2])
    if mask is not None:  # what lies under it must reach no product: 0 · NaN is NaN
        key, value = (t.masked_fill(~mask[..., None], 0.0) for t in (key, value))
    if name == "triton" and candidates is None:
        from n3match.ops.triton import dense as kernels  # imports Triton

        return kernels.aggregate(query, key, value, log_t, mask, k, exclude_self)
    if name == "triton":
        from n3match.ops.triton import candidates as gathering

        given = (query, key, value, log_t, candidates, mask)
        return gathering.aggregate(*given, k, exclude_self, selection, seed)
    rule = (k, exclude_self, recursion, selection, seed)
    if name == "reference":
        return reference.aggregate(query, key, value, log_t, candidates, mask, *rule)
    given = _as_tiles_take_them(query, key, value, log_t)
    if candidates is None and (selection == "n3" or (selection == "concrete" and seed is None)):
        z = dense.aggregate(*given, mask, k, exclude_self, recursion)
    else:
        z = explicit.aggregate(*given, candidates, mask, *rule)
    return z.to(value.dtype)


def _form(name: str, selection: str, generator: torch.Generator | None) -> str:
    """As the trial knows it."""
    if selection == "knn":
        return name + " knn"
    return name if generator is None else name + " noise"


def _as_tiles_take_them(*tensors: Tensor) -> tuple[Tensor, ...]:
    """float16 and bfloat16 are computed in float32 there."""
    return tuple(t.float() if t.dtype in _HALF else t for t in tensors)


def n3_window_aggregate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    log_temperature: float | Tensor = 0.0,
    patch_size: int = 10,
    stride: int = 5,
    window: int = 15,
    *,
    exclude_self: bool = True,
    recursion: str = "released",
    selection: str = "n3",
    generator: torch.Generator | None = None,
    backend: str | None = None,
    differences: bool = False,
) -> Tensor:
    """K soft nearest neighbours of every patch of an image, among the patches around it.

    The image is zero-padded until patches of P×P pixels every S pixels fill it, n₁×n₂ of them. A
    query patch selects among the W×W patches around it (moved inwards at the border, clamped to a
    smaller grid; see `window.grid`), by squared distances of whole patches of `query` and `key`.
    Averaged patches of `value` are put back where the query is, overlapping ones averaged, and the
    padding is cut off. Fastest where P is a multiple of S.

    Args:
        query: (B, E, H, W) image of query embeddings, floating point, at least P×P pixels.
        key: (B, E, H, W), same type and device.
        value: (B, C, H, W) image that is averaged.
        k: number of neighbours K ≥ 1; may exceed the number of candidates (see `n3_aggregate`).
        log_temperature: log t: a number, or (B, 1, n₁, n₂), one for each query patch. Not NaN.
        patch_size: P ≥ 1.
        stride: S, 1 to P.
        window: W ≥ 1, odd or even: the window begins W//2 patches before the query.
        exclude_self: a patch may not select itself. The only patch of an image then gives 0.
        recursion, selection, generator, backend: as in `n3_aggregate`.
        differences: what is wanted is `value` and what each neighbour differs from it by, as
            channels of one image: faster than to make it of the neighbours.

    Returns:
        (B, K, C, H, W), finite for finite input; with `differences` (B, (K + 1)·C, H, W).

    Raises:
        ValueError, TypeError: naming the argument, what was found and what was wanted.
    """
    checks.check_rule(k, recursion, selection, generator)
    k, exclude_self = operator.index(k), flag("exclude_self", exclude_self)
    differences = flag("differences", differences)
    query, key, value = widest(query, key, value)
    checks.check_window_images(query, key, value)
    grid = checks.window_grid(query, patch_size, stride, window)
    log_t = checks.as_window_log_temperature(log_temperature, len(query), grid, query)
    layout = [operator.index(n) for n in (patch_size, stride, window)]
    refusal = dispatch.window_refusal(query, k, *layout, recursion)
    name = dispatch.choose(backend, refusal, _form("window", selection, generator), query)
    seed = draw_seed(generator)
    given = (query, key, value, log_t)
    if value.numel() == 0:
        z = value.new_zeros(len(value), k, *value.shape[1:])
    elif name == "triton":
        from n3match.ops.triton import window as kernels  # imports Triton

        z = kernels.aggregate(*given, grid, k, exclude_self, selection, seed)
    elif name == "reference":
        rule = (k, exclude_self, recursion, selection, seed)
        z = reference.window_aggregate(*given, grid, *rule)
    else:
        given = _as_tiles_take_them(*given)
        options = (k, layout, exclude_self, recursion, selection, seed)
        if differences and (done := windows.differences(*given, *options)) is not None:
            return done.to(value.dtype)
        z = windows.aggregate(*given, *options).to(value.dtype)
    return torch.cat([value, (z - value[:, None]).flatten(1, 2)], 1) if differences else z
