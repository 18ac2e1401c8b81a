"""The public face of the operator: arguments in, backend chosen or forced, result out."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from n3match.ops import candidates_op, checks, reference
from n3match.ops.custom_op import autocast_off, widest
from n3match.ops.dense import op as tiled_op
from n3match.ops.triton import backend as triton_backend
from n3match.ops.triton import trial as triton_trial
from n3match.ops.window import gathered as windows
from n3match.ops.window import op as window_op

_BACKENDS = ("tiled", "triton", "reference")

_log = logging.getLogger(__name__)


def backends() -> tuple[str, ...]:
    """Names that `backend=` takes on this machine, the one that every machine has first."""
    return tuple(name for name in _BACKENDS if name != "triton" or not triton_backend.absent())


def _chosen(backend: str | None, refusal: str, form: str, query: Tensor) -> str:
    """refusal: why "triton" can't serve the call, or ""."""
    if backend is not None and backend not in _BACKENDS:
        raise ValueError(f"backend must be None or one of {backends()}, got {backend!r}")
    if backend == "triton" and refusal:
        raise ValueError(f"backend 'triton' can't serve this call: {refusal}")
    if backend is not None:
        return backend
    if not refusal:
        refusal = _distrust(form, query)
    if not refusal:
        return "triton"
    if not torch.compiler.is_compiling():
        _log.debug("tiled, not triton: %s", refusal)
    return "tiled"


def _distrust(form: str, query: Tensor) -> str:
    """Why the kernels aren't chosen by themselves though they could serve; "" if they are."""
    if not isinstance(query, Tensor):
        return "the query is no tensor"  # said better elsewhere
    if query.device.type == "cpu":
        return "the interpreter is for tests"
    return triton_trial.failure(form, query.device.type, query.device.index)


def n3_weights(
    distances: Tensor,
    k: int,
    log_temperature: float | Tensor = 0.0,
    *,
    mask: Tensor | None = None,
    recursion: str = "released",
    selection: str = "n3",
    generator: torch.Generator | None = None,
) -> Tensor:
    """The K weight distributions themselves, (B, M, O) -> (B, M, O, K): for study and tests.

    Needs O·K numbers per query; `n3_aggregate` never forms them. See `reference.n3_weights`.

    Args:
        distances: (B, M, O) squared distances of M queries to O candidates, floating point.
        k: number of neighbours K ≥ 1; may exceed O.
        log_temperature: log t: a number, or (B, M, 1).
        mask: (B, M, O) bool, True where a candidate may be selected; None: all may.
        recursion, selection, generator: as in `n3_aggregate`.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    return reference.n3_weights(
        distances, k, log_temperature,
        mask=mask, recursion=recursion, selection=selection, generator=generator,
    )


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
            twice counts as two candidates. None: all N items.
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
    refusal = triton_backend.dense_refusal(query, k, candidates, recursion, selection, generator)
    name = _chosen(backend, refusal, "dense", query)
    query, key, value = widest(query, key, value)
    given = (query, key, value, k, log_temperature)
    options = {"mask": mask, "exclude_self": exclude_self}
    if name == "triton":
        from n3match.ops.triton import dense as triton_dense  # imports Triton

        return triton_dense.n3_aggregate(*given, **options)
    options["recursion"] = recursion
    drawn = {"selection": selection, "generator": generator}
    if name == "reference":
        return reference.n3_aggregate(*given, candidates, **options, **drawn)
    plain = selection == "n3" or (selection == "concrete" and generator is None)
    if candidates is None and plain:
        return tiled_op.n3_aggregate(*given, **options)
    return candidates_op.n3_aggregate(*given, candidates, **options, **drawn)


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
) -> Tensor:
    """K soft nearest neighbours of every patch of an image, among the patches around it.

    The image is zero-padded until patches of P×P pixels every S pixels fill it, n₁×n₂ of them. A
    query patch selects among the W×W patches around it (moved inwards at the border, clamped to a
    smaller grid; see `window_grid`), by squared distances of whole patches of `query` and `key`.
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

    Returns:
        (B, K, C, H, W), finite for finite input; the query image isn't subtracted.

    Raises:
        ValueError, TypeError: naming the argument, what was found and what was wanted.
    """
    checks.check_rule(k, recursion, selection, generator)
    checks.check_layout(patch_size, stride, window)
    layout = (patch_size, stride, window)
    refusal = triton_backend.window_refusal(query, k, *layout, recursion)
    form = "window"
    if selection == "knn":
        form = "window knn"
    elif generator is not None:
        form = "window noise"
    name = _chosen(backend, refusal, form, query)
    query, key, value = widest(query, key, value)
    given = (query, key, value, k, log_temperature, *layout)
    if name == "triton":
        from n3match.ops.triton import window as triton_window  # imports Triton

        return triton_window.n3_window_aggregate(
            *given, exclude_self=exclude_self, selection=selection, generator=generator
        )
    options = {"exclude_self": exclude_self, "recursion": recursion, "selection": selection}
    if name == "tiled" and generator is None and torch.compiler.is_compiling():
        return window_op.n3_window_aggregate(*given, **options)
    run = reference.n3_window_aggregate if name == "reference" else windows.n3_window_aggregate
    checks.check_window_images(query, key, value)
    with autocast_off(query):
        return run(*given, generator=generator, **options)
