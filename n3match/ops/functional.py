"""The public face of the operator: arguments in, backend chosen or forced, result out."""

from __future__ import annotations

import torch
from torch import Tensor

from n3match.ops import candidates as explicit
from n3match.ops import checks, reference, tiled
from n3match.ops import window as windows

_BACKENDS = ("tiled", "reference")


def backends() -> tuple[str, ...]:
    """Names that `backend=` takes, the default first."""
    return _BACKENDS


def _chosen(backend: str | None) -> str:
    name = backends()[0] if backend is None else backend
    if name not in backends():
        raise ValueError(f"backend must be None or one of {backends()}, got {backend!r}")
    return name


def n3_weights(
    distances: Tensor,
    k: int,
    log_temperature: float | Tensor = 0.0,
    *,
    mask: Tensor | None = None,
    reading: str = "released",
    selection: str = "n3",
    generator: torch.Generator | None = None,
) -> Tensor:
    """The K weight distributions themselves, (B, M, O) -> (B, M, O, K): for study and tests.

    Needs O·K numbers per query; `n3_aggregate` never forms them. See `reference.n3_weights`.
    """
    return reference.n3_weights(
        distances, k, log_temperature,
        mask=mask, reading=reading, selection=selection, generator=generator,
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
    reading: str = "released",
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
        reading: "released" (a¹ = −d/t; default) or "poster" (t also divides the log term).
        selection: "n3", or "knn" (hard: the k-th nearest itself; gradients reach `value` only), or
            "concrete" (N³ with Gumbel noise on −d).
        generator: of that noise; None: no noise. It moves on by one number for each call, and the
            same state gives the same noise on every backend.
        backend: None chooses; "tiled" and "reference" force.

    Returns:
        (B, M, K, F), finite for finite input.

    Raises:
        ValueError, TypeError: naming the argument, what was found and what was wanted.
    """
    name = _chosen(backend)
    given = (query, key, value, k, log_temperature)
    options = {"mask": mask, "exclude_self": exclude_self, "reading": reading}
    drawn = {"selection": selection, "generator": generator}
    if name == "reference":
        return reference.n3_aggregate(*given, candidates, **options, **drawn)
    checks.check_selection(selection, generator)
    plain = selection == "n3" or (selection == "concrete" and generator is None)
    if candidates is None and plain:
        return tiled.n3_aggregate(*given, **options)
    return explicit.n3_aggregate(*given, candidates, **options, **drawn)


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
    reading: str = "released",
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
        reading, selection, generator, backend: as in `n3_aggregate`.

    Returns:
        (B, K, C, H, W), finite for finite input; the query image isn't subtracted.

    Raises:
        ValueError, TypeError: naming the argument, what was found and what was wanted.
    """
    name = _chosen(backend)
    run = reference.n3_window_aggregate if name == "reference" else windows.n3_window_aggregate
    return run(
        query, key, value, k, log_temperature, patch_size, stride, window,
        exclude_self=exclude_self, reading=reading, selection=selection, generator=generator,
    )
