"""Vectors of integers and their nearest, against 64-bit arithmetic, at every level."""

import numpy as np
import pytest
import torch
from compiled_levels import held_to

from n3match import native
from n3match.native import descriptors


@pytest.fixture(scope="module", params=native.LEVELS, autouse=True)
def level(request):
    with held_to(request.param):
        yield


def _images(n, m, depth, low, high):
    gen = torch.Generator().manual_seed(n + depth)
    return [torch.randint(low, high, (k, depth), generator=gen).float() for k in (n, m)]


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize(("keep_a", "keep_b"), [(1, 1), (2, 1), (5, 3), (9, 32)])
@pytest.mark.parametrize(("n", "m", "depth"), [(1, 1, 1), (5, 131, 3), (97, 7, 34), (200, 70, 128)])
def test_the_nearest_in_order(n, m, depth, keep_a, keep_b, as_bytes):
    a, b = images = _images(n, m, depth, 0, 4 if depth < 10 else 256)  # of few values: many ties
    found = descriptors.nearest(
        *descriptors.integers(images, 1.0, centre=None, bytes=as_bytes), keep_a, keep_b
    )
    exact = (a[:, None] - b[None]).long().square().sum(2).numpy()
    for (squared, at), distances, keep in zip(found, (exact, exact.T), (keep_a, keep_b)):
        order = np.argsort(distances, axis=1, kind="stable")[:, :keep]
        there = order.shape[1]
        np.testing.assert_array_equal(at[:, :there], order)
        np.testing.assert_array_equal(
            squared[:, :there], np.take_along_axis(distances, order, axis=1)
        )
        assert (at[:, there:] == -1).all() and (squared[:, there:] == descriptors.FAR).all()


def test_the_longest_vectors():
    a = torch.zeros(2, 5)
    a[0, 1], a[1, 4] = descriptors.LONGEST, -descriptors.LONGEST
    rounded = descriptors.integers((a, -a), 1.0, centre=None, bytes=False)
    (squared, at), _ = descriptors.nearest(*rounded, 2, 1)
    assert squared[0].tolist() == [2 * descriptors.LONGEST**2, 4 * descriptors.LONGEST**2]
    assert at[0].tolist() == [1, 0]


def test_what_a_survey_says():
    a, b = _images(900, 3, 21, 0, 256)
    seen = descriptors.survey((a, b))
    norms = [float(x.double().square().sum(1).max()) ** 0.5 for x in (a, b)]
    np.testing.assert_allclose(seen.longest, norms)
    torch.testing.assert_close(seen.sums, a.double().sum(0) + b.double().sum(0))
    assert seen.whole and seen.bytes
    for value, whole in ((256.0, True), (-1.0, True), (0.5, False), (1e30, True)):
        b[2, 20] = value
        seen = descriptors.survey((a, b))
        assert not seen.bytes and (seen.whole == whole or value > 1e9)
    for value in (torch.inf, -torch.inf, torch.nan):
        a[800, 20] = value
        assert not descriptors.survey((a, b)).longest[0] < torch.inf


def test_what_rounding_takes_away():
    gen = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 7, generator=gen) for n in (13, 9))
    centre = torch.randn(7, generator=gen, dtype=torch.float64)
    for x, rounded in zip((a, b), descriptors.integers((a, b), 100.0, centre=centre, bytes=False)):
        scaled = (x.double() - centre) * 100
        cut = (scaled - scaled.round()).square().sum(1).sqrt().max()
        assert rounded.cut == pytest.approx(float(cut), rel=1e-9)


def test_distances_of_pairs():
    gen = torch.Generator().manual_seed(1)
    a, b = torch.randn(30, 19, generator=gen), 1e30 * torch.randn(20, 19, generator=gen)
    i, j = np.arange(30).reshape(2, 15), np.arange(30).reshape(15, 2).T % 21 - 1
    exact = ((a[i].double() - b[j].double()) ** 2).sum(2).numpy()
    np.testing.assert_allclose(
        descriptors.squared_distances(a, b, i, j), np.where(j < 0, np.inf, exact), rtol=1e-14
    )
