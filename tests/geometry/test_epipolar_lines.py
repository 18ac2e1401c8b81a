"""Epipolar lines in the image: against known answers, and every true match on its line."""

import cv2
import numpy as np
import pytest
from two_view_scenes import (
    DISTORTION_A,
    DISTORTION_B,
    HEIGHT,
    K_A,
    K_B,
    WIDTH,
    make_scene,
)

from n3match.geometry import distort_points, epipolar_lines, undistort_points

SIZE = (WIDTH, HEIGHT)
SIDEWAYS = np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0.0]])  # [t]× for t = (1, 0, 0), R = I
FORWARD = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 0.0]])  # t = (0, 0, 1)


def essential(scene) -> np.ndarray:
    x, y, z = scene.t
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ scene.R


def distance(point: np.ndarray, pieces: list[np.ndarray]) -> float:
    """Pixels from a point to the nearest of the strokes, their ends included."""
    nearest = np.inf
    for piece in pieces:
        start, step = piece[:-1], np.diff(piece, axis=0)
        s = np.clip(((point - start) * step).sum(1) / (step**2).sum(1), 0, 1)
        nearest = min(nearest, np.linalg.norm(start + s[:, None] * step - point, axis=1).min())
    return nearest


def on_border(point: np.ndarray, size=SIZE) -> bool:
    edges = np.abs(np.concatenate((point + 0.5, np.array(size) - 0.5 - point)))
    return bool(edges.min() < 1e-6)


def test_a_sideways_step_gives_level_lines_at_the_other_cameras_row():
    points = np.array([[100.0, 200.0], [700.0, 479.5]])
    lines = epipolar_lines(points, SIDEWAYS, K_A, K_B, SIZE)
    for (_, y), (piece,) in zip(points, lines):
        row = 800 * (y - 479.5) / 1000 + 470
        ends = piece[np.argsort(piece[:, 0])]
        np.testing.assert_allclose(ends, [[-0.5, row], [WIDTH - 0.5, row]], atol=1e-9)


def test_a_step_ahead_gives_lines_through_the_principal_point():
    (diagonal,), (upright,) = epipolar_lines(
        [[739.5, 579.5], [639.5, 100.0]], FORWARD, K_A, K_A, SIZE
    )
    # Down the diagonal from the centre (639.5, 479.5) the lower and the upper edge are nearest.
    np.testing.assert_allclose(np.sort(diagonal, 0), [[159.5, -0.5], [1119.5, 959.5]], atol=1e-9)
    np.testing.assert_allclose(np.sort(upright, 0), [[639.5, -0.5], [639.5, 959.5]], atol=1e-9)


def test_lines_that_miss_the_image_and_epipoles_are_left_out():
    # Row 479.5 - 900 in units of camera A is far above image B; the epipole of a step ahead is
    # the principal point.
    assert epipolar_lines([[640.0, -420.0]], SIDEWAYS, K_A, K_B, SIZE) == [[]]
    assert epipolar_lines([[639.5, 479.5]], FORWARD, K_A, K_A, SIZE) == [[]]
    # The line at infinity: E x0 = (0, 0, 1).
    assert epipolar_lines([[639.5, 479.5]], np.diag((0, 0, 1.0)), K_A, K_A, SIZE) == [[]]
    assert epipolar_lines([], SIDEWAYS, K_A, K_A, SIZE) == []


@pytest.mark.parametrize("two_cameras", [False, True])
@pytest.mark.parametrize("kind", ["general", "forward", "planar"])
def test_every_true_match_is_on_its_line_both_ways_round(kind, two_cameras):
    scene = make_scene(kind, count=60, noise=0.0, two_cameras=two_cameras)
    E, K0, K1 = -3.7 * essential(scene), scene.K0, scene.K1
    there = epipolar_lines(
        scene.points0, E, K0, K1, SIZE,
        distortion0=scene.distortion0, distortion1=scene.distortion1,
    )
    back = epipolar_lines(
        scene.points1, E.T, K1, K0, SIZE,
        distortion0=scene.distortion1, distortion1=scene.distortion0,
    )
    for points, lines in ((scene.points1, there), (scene.points0, back)):
        assert len(lines) == len(points) == 60
        assert max(map(distance, points, lines)) < 0.05
        for pieces in lines:
            every = np.concatenate(pieces)
            assert (every >= -0.5 - 1e-9).all() and (every <= np.array(SIZE) - 0.5 + 1e-9).all()
            # One stroke through the image, from edge to edge.
            assert len(pieces) == 1 and on_border(pieces[0][0]) and on_border(pieces[0][-1])
    # Drawn in the other image, the lines would be plainly wrong.
    assert np.median([*map(distance, scene.points0, there)]) > 10


def test_a_bent_line_is_straight_once_the_lens_is_undone():
    point, size = np.array([[100.0, 80.0]]), (WIDTH, HEIGHT)
    ((piece,),) = epipolar_lines(
        point, SIDEWAYS, K_A, K_B, size, distortion0=DISTORTION_A, distortion1=DISTORTION_B
    )
    assert np.ptp(piece[:, 1]) > 10  # bent in the image
    row = undistort_points(point, K_A, DISTORTION_A)[0, 1]
    np.testing.assert_allclose(undistort_points(piece, K_B, DISTORTION_B)[1:-1, 1], row, atol=2e-5)


def test_a_lens_model_that_folds_back_draws_no_second_line():
    # Past 1.12 in calibrated units, r (1 - 0.265 r²) falls again, and reaches 0 at 1.94.
    lens, K = np.array([-0.265, 0, 0, 0]), np.array([[400.0, 0, 639.5], [0, 400, 479.5], [0, 0, 1]])
    ((piece,),) = epipolar_lines([[639.5, 500.0]], SIDEWAYS, K_A, K, SIZE, distortion1=lens)
    x = undistort_points(piece, K, lens)
    np.testing.assert_allclose(x[:, 1], 20.5 / 1000, atol=1e-3)
    assert (np.diff(piece[:, 0]) < 0).all() or (np.diff(piece[:, 0]) > 0).all()
    assert 500 < np.ptp(piece[:, 0]) < 2 * 400 * 0.75


def test_distortion_and_its_inverse_cancel():
    K = np.array([[780.0, 3.0, 660.0], [0.0, 800.0, 470.0], [0.0, 0.0, 1.0]])
    x = np.random.default_rng(0).uniform((-0.7, -0.5), (0.7, 0.5), (31, 2))
    for lens in (None, DISTORTION_A, DISTORTION_B):
        np.testing.assert_allclose(undistort_points(distort_points(x, K, lens), K, lens), x,
                                   atol=1e-9)
    pixels, _ = cv2.projectPoints(np.c_[x, np.ones(31)], np.zeros(3), np.zeros(3), K_B,
                                  DISTORTION_B)
    np.testing.assert_allclose(distort_points(x, K_B, DISTORTION_B), pixels[:, 0], atol=1e-9)
    assert distort_points([], K_B, DISTORTION_B).shape == (0, 2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"points0": [[1.0, 2, 3]]}, r"points0 must have shape \(N, 2\), got \(1, 3\)"),
        ({"E": np.zeros((3, 3))}, "E must be finite and not zero"),
        ({"E": np.eye(2)}, r"E must have shape \(3, 3\), got \(2, 2\)"),
        ({"K0": np.zeros((3, 3))}, "K0 must have positive focal lengths"),
        ({"K1": np.ones((3, 3))}, r"K1 must be \[\[fx, s, cx\]"),
        ({"size1": (0, 5)}, "size1 must be"),
        ({"distortion1": [0.1]}, "distortion1 must hold 4, 5, 8, 12 or 14"),
    ],
)
def test_bad_arguments_are_named(changed, message):
    arguments = {"points0": [[1.0, 2.0]], "E": SIDEWAYS, "K0": K_A, "K1": K_B, "size1": SIZE}
    with pytest.raises(ValueError, match=message):
        epipolar_lines(**{**arguments, **changed})
