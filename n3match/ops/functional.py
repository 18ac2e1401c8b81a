"""The public face of the operator: arguments in, backend chosen or forced, result out."""

from __future__ import annotations

from torch import Tensor

from n3match.ops import reference, tiled

_AGGREGATE = {"tiled": tiled.n3_aggregate, "reference": reference.n3_aggregate}


def backends() -> tuple[str, ...]:
    """Names that `backend=` takes, the default first."""
    return tuple(_AGGREGATE)


def n3_weights(
    distances: Tensor,
    k: int,
    log_temperature: float | Tensor = 0.0,
    *,
    mask: Tensor | None = None,
    reading: str = "released",
) -> Tensor:
    """The K weight distributions themselves, (B, M, O) -> (B, M, O, K): for study and tests.

    Needs O·K numbers per query; `n3_aggregate` never forms them. See `reference.n3_weights`.
    """
    return reference.n3_weights(distances, k, log_temperature, mask=mask, reading=reading)


def n3_aggregate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    log_temperature: float | Tensor = 0.0,
    *,
    mask: Tensor | None = None,
    exclude_self: bool = False,
    reading: str = "released",
    backend: str | None = None,
) -> Tensor:
    """K soft nearest neighbours of every query among all database items.

    zᵏ = Σ_i wᵏ_i value_i, with wᵏ as defined in `n3match.ops.reference` (Plötz & Roth, 2018).

    Args:
        query: (B, M, E) query embeddings, floating point.
        key: (B, N, E) database embeddings, same type and device.
        value: (B, N, F) features that are averaged.
        k: number of neighbours K ≥ 1.
        log_temperature: log t of each query: a number, or (B, M, 1).
        mask: (B, N) bool, True where an item may be selected (False: padding). Masked items get
            exactly zero gradient. A query without candidates gives 0.
        exclude_self: query i may not select item i (needs M = N).
        reading: "released" (a¹ = −d/t; default) or "poster" (t also divides the log term).
        backend: None chooses; "tiled" and "reference" force.

    Returns:
        (B, M, K, F), finite for finite input.

    Raises:
        ValueError, TypeError: naming the argument, what was found and what was wanted.
    """
    name = backends()[0] if backend is None else backend
    if name not in _AGGREGATE:
        raise ValueError(f"backend must be None or one of {backends()}, got {backend!r}")
    return _AGGREGATE[name](
        query, key, value, k, log_temperature,
        mask=mask, exclude_self=exclude_self, reading=reading,
    )
