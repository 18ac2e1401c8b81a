"""The N³ operator as plain formulas: slow, memory-hungry, and the oracle for everything else.

Definition (Plötz & Roth, "Neural Nearest Neighbors Networks", NeurIPS 2018), with d_i the squared
distance of candidate i and t the temperature of the query::

    a¹_i = −d_i / t
    wᵏ   = softmax(aᵏ)                  over the candidates
    aᵏ⁺¹ = aᵏ + log(1 − wᵏ)             recursion "released" (the authors' code; default)
    aᵏ⁺¹ = aᵏ + log(1 − wᵏ) / t         recursion "poster"

Evaluated in float64 whatever the input type, so that float32 input loses nothing. Three rules
complete the definition where the formula alone is not finite:

* *Certain choice.* If the mass of all other candidates, relative to the largest, is below the
  smallest positive double (a logit gap above 745), the largest is taken out for good and the next
  distribution is the softmax over the rest. This is what makes t → 0 the hard K nearest neighbours
  in order. (Above that, the exact formula of the "released" recursion returns half of the next
  distribution to the candidate already chosen: w² → (½, ½) for a gap of 20, say. That is no
  rounding error: 1 − w¹ of the nearest equals w¹ of the next.)
* *Nothing left.* When the last candidate would be taken out, its distribution is repeated.
* *No candidate.* A query whose candidates are all masked has weights 0 (and output 0).

Two relatives select by the same distances (`selection`):

* "knn": wᵏ is one-hot at the k-th nearest candidate, the first among equals; with fewer than K
  candidates the farthest is repeated. No gradient reaches distances or temperature.
* "concrete": sampling without replacement, relaxed. Gumbel noise γ is added to the logits −d, so
  that a¹ = (−d + γ)/t, and the recursion is that above. Without a generator there is no noise, and
  nothing differs from "n3".

B batch, M queries, N database items, O candidates, K neighbours, E/F channels.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from n3match.ops import checks
from n3match.ops.noise import draw_seed, gumbel
from n3match.ops.window.grid import WindowGrid

# exp(-745.13) is the smallest positive double.
CERTAIN_GAP = 745.0


def log_weights_complement(logits: Tensor, alive: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """log(1 − w) without cancellation, and a mask of the candidates that are certain.

    For the largest candidate 1 − w is the mass of the *others* over the mass of all; every other
    w is at most ½, where log1p is exact.
    """
    minus_inf = float("-inf")
    top = logits.masked_fill(~alive, minus_inf).argmax(-1, keepdim=True)
    is_top = torch.zeros_like(alive).scatter(-1, top, True)
    others_alive = alive & ~is_top
    none_left = ~others_alive.any(-1, keepdim=True)
    # A row without other candidates would send NaN back through logsumexp: give it a dummy.
    others = logits.masked_fill(~others_alive, minus_inf).masked_fill(none_left, 0.0)
    log_others = others.logsumexp(-1, keepdim=True)
    top_logit = logits.gather(-1, top)
    gap = top_logit - log_others
    certain = is_top & alive & ((gap > CERTAIN_GAP) | none_left)
    log_top = -torch.logaddexp(gap, torch.zeros_like(gap))  # log(others / (others + top))
    complement = torch.where(is_top, log_top, torch.log1p(-weights.masked_fill(is_top, 0.0)))
    return complement.masked_fill(certain | ~alive, 0.0), certain


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
    """The K categorical distributions of each query themselves: for study and tests.

    Needs O·K numbers per query; `n3_aggregate` never forms them.

    Args:
        distances: (B, M, O) squared distances, any floating type.
        k: number of neighbours K ≥ 1; may exceed O.
        log_temperature: log t: a number, or (B, M, 1).
        mask: (B, M, O) bool, True where a candidate may be selected.
        recursion: where the temperature acts, "released" or "poster" (see the module's text).
        selection: "n3", "knn" or "concrete" (see there).
        generator: of the noise of "concrete"; None: no noise.

    Returns:
        (B, M, O, K) weights in the type of `distances`, summing to 1 over O (0 for a query
        without candidates).

    Raises:
        ValueError, TypeError: naming the argument.
    """
    checks.check_rule(k, recursion, selection, generator)
    k = operator.index(k)
    checks.check_floating("distances", distances, 3, "(B, M, O)")
    b, m, o = distances.shape
    checks.check_mask(mask, (b, m, o), "(B, M, O)", distances.device)
    log_t = checks.as_log_temperature(log_temperature, b, m, distances)
    if b * m * o == 0:
        return distances.new_zeros(b, m, o, k)
    alive = torch.ones_like(distances, dtype=torch.bool) if mask is None else mask
    d = distances.double().masked_fill(~alive, 0.0)
    numbers = torch.arange(b * m * o, device=d.device).view(b, m, o)
    noise = (draw_seed(generator), numbers)
    weights = weights_in_double(d, k, log_t.double(), alive, recursion, selection, noise)
    return weights.to(distances.dtype)


def weights_in_double(
    d: Tensor,
    k: int,
    log_t: Tensor,
    alive: Tensor,
    recursion: str,
    selection: str,
    noise: tuple[int | None, Tensor | None],
) -> Tensor:
    """`n3_weights` of checked float64 input.

    noise: seed, and the number of each query and candidate (see `ops.noise`).
    """
    if selection == "knn":
        return nearest_one_hot(d, k, alive)
    seed, numbers = noise
    if seed is not None:
        d = (d - gumbel(seed, numbers, d.dtype)).masked_fill(~alive, 0.0)
    some = alive.any(-1, keepdim=True)
    # Subtracting the nearest distance before dividing keeps all digits at small t.
    nearest = d.detach().masked_fill(~alive, float("inf")).amin(-1, keepdim=True)
    nearest = nearest.masked_fill(~some, 0.0)
    logits = -(d - nearest) * torch.exp(-log_t)
    steps = []
    for step in range(k):
        shown = logits.masked_fill(~alive, float("-inf")).masked_fill(~some, 0.0)
        weights = shown.softmax(-1) * some
        steps.append(weights)
        if step + 1 == k:
            break
        complement, certain = log_weights_complement(logits, alive, weights)
        if recursion == "poster":
            complement = complement * torch.exp(-log_t)
        logits = logits + complement
        rest = alive & ~certain
        alive = torch.where(rest.any(-1, keepdim=True), rest, alive)
    return torch.stack(steps, -1)


def nearest_one_hot(d: Tensor, k: int, alive: Tensor) -> Tensor:
    """(…, O) -> (…, O, K): 1 at the k-th nearest, without gradient."""
    left = d.detach().masked_fill(~alive, float("inf"))
    some = alive.any(-1, keepdim=True)
    steps, chosen = [], None
    for _ in range(k):
        found = left.argmin(-1, keepdim=True)
        none_left = left.gather(-1, found).isinf()
        chosen = found if chosen is None else torch.where(none_left, chosen, found)
        left = left.scatter(-1, chosen, float("inf"))
        steps.append(torch.zeros_like(left).scatter(-1, chosen, 1.0) * some)
    return torch.stack(steps, -1)


def aggregate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_t: Tensor,
    candidates: Tensor | None,
    mask: Tensor | None,
    k: int,
    exclude_self: bool,
    recursion: str,
    selection: str,
    seed: int | None,
    numbers: Tensor | None = None,
) -> Tensor:
    """zᵏ = Σ_i wᵏ_i · value_i: (B, M, E), (B, N, E), (B, N, F), (B, M, 1) -> (B, M, K, F).

    Arguments as in `n3match.ops.n3_aggregate`, checked before; seed: of the noise, None: no noise;
    numbers: those of each query and candidate, None: counted through.
    """
    b, m, _ = query.shape
    of_batch = torch.arange(b, device=query.device)[:, None, None]
    items = torch.arange(key.shape[1], device=query.device)[None, None]
    index = items.expand(b, m, -1) if candidates is None else candidates
    if index.numel() == 0:
        return value.new_zeros(b, m, k, value.shape[2])
    if numbers is None:
        numbers = torch.arange(index.numel(), device=query.device).view(index.shape)
    allowed = torch.ones_like(index, dtype=torch.bool)
    if mask is not None:
        allowed = allowed & mask[of_batch, index]
        # 0 · NaN is NaN: padding must not reach a product at all.
        key = key.masked_fill(~mask[..., None], 0.0)
        value = value.masked_fill(~mask[..., None], 0.0)
    if exclude_self:
        allowed = allowed & (index != items[0, 0, :, None])
    x, v = key.double()[:, None], value.double()[:, None]
    if candidates is not None:
        x, v = x[of_batch, 0, index], v[of_batch, 0, index]
    d = (query.double()[:, :, None, :] - x).square().sum(-1)
    noise = (seed, numbers)
    weights = weights_in_double(d, k, log_t.double(), allowed, recursion, selection, noise)
    return torch.stack([(weights[:, :, None, :, i] @ v)[:, :, 0] for i in range(k)], 2).to(
        value.dtype
    )


def window_aggregate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_t: Tensor,
    grid: WindowGrid,
    k: int,
    exclude_self: bool,
    recursion: str,
    selection: str,
    seed: int | None,
) -> Tensor:
    """Patches are cut out, each one's window gathered, and averaged patches put back: (B, E, H, W)
    twice, (B, C, H, W) and (B, 1, n₁, n₂) -> (B, K, C, H, W).

    Arguments as in `n3match.ops.n3_window_aggregate`, checked before; seed as in `aggregate`.
    """
    b = len(query)
    index = grid.candidates(query.device)
    m = len(index)
    # A query and a candidate have the number they would have if all patches were candidates.
    queries = torch.arange(b * m, device=query.device).view(b, m, 1)
    z = aggregate(
        *(grid.patches(image.double()) for image in (query, key, value)),
        log_t.reshape(b, m, 1), index.expand(b, -1, -1), None, k, exclude_self, recursion,
        selection, seed, queries * m + index,
    )
    return torch.stack([grid.put_back(z[:, :, step]) for step in range(k)], 1).to(value.dtype)
