"""The columns of side information: what they hold, and what stands for not known."""

import numpy as np
import pytest

from n3match.side_information import (
    COLUMNS,
    NEUTRAL,
    relative_apart,
    relative_distance,
    side_columns,
)


def test_columns_come_in_the_order_asked_for():
    ratio, mutual = np.array([0.5, 0.9]), np.array([True, False])
    found = side_columns(("mutual", "ratio"), ratio, mutual)
    np.testing.assert_array_equal(found, [[1, 0.5], [0, 0.9]])
    assert found.dtype == np.float64


def test_what_is_not_known_is_neutral():
    apart = np.array([-0.5, 0.5])
    found = side_columns(COLUMNS, np.array([0.5, 0.9]), np.array([True, False]), apart=apart)
    np.testing.assert_array_equal(found[:, 2], [NEUTRAL["back_ratio"]] * 2)
    np.testing.assert_array_equal(found[:, 3], [NEUTRAL["distance"]] * 2)
    np.testing.assert_array_equal(found[:, 4], apart)


def test_no_column_asked_for():
    assert side_columns((), np.ones(3), np.ones(3, bool)) is None


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="scale"):
        side_columns(("ratio", "scale"), np.ones(3), np.ones(3, bool))


def test_distances_are_relative_to_their_mean():
    np.testing.assert_allclose(relative_distance([1, 2, 3]), [-0.5, 0, 0.5])
    np.testing.assert_allclose(relative_distance([10, 20, 30]), [-0.5, 0, 0.5])
    np.testing.assert_allclose(relative_distance([1, np.nan, 3]), [-0.5, 0, 0.5])
    for unknown in ([np.nan, np.nan], [0, 0], []):
        np.testing.assert_array_equal(relative_distance(unknown), np.zeros(len(unknown)))


def test_how_far_apart_goes_by_its_logarithm():
    focal = 1000.0
    pixels = [0, 1, 31.6227766, 1000, 5000, np.inf]
    np.testing.assert_allclose(relative_apart(pixels, focal), [-1, -1, 0, 1, 1, 0], atol=1e-7)
