"""Pictures of matches."""

import cv2
import numpy as np
import prepared
import pytest
from PIL import Image

from n3match.datasets.images import read_image_rgb
from n3match.pipelines.common.plots.matches import KEPT_COLOUR, plot_matches

KEPT_RGB = np.array([int(KEPT_COLOUR[i : i + 2], 16) for i in (1, 3, 5)])


def draw(path, points0, points1, kept, shape0=(300, 400), shape1=(300, 400), grey=0):
    plot_matches(
        path, np.full(shape0, grey, np.uint8), np.full(shape1, grey, np.uint8),
        np.array(points0, float).reshape(-1, 2), np.array(points1, float).reshape(-1, 2),
        np.array(kept, bool), title="a title",
    )
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(int)


def photographs(picture) -> np.ndarray:
    """The picture below the title's band."""
    return picture[75:]


def looks_kept(picture) -> np.ndarray:
    """(H, W) bool: pixels of the kept colour, however faint."""
    red, _, blue = KEPT_RGB / KEPT_RGB.max()
    return (picture[..., 0] - picture[..., 2]) > 40 * (red - blue)


def test_kept_match_joins_its_points_in_one_colour(tmp_path):
    picture = photographs(draw(tmp_path / "p.png", [[100, 150]], [[300, 150]], [True]))
    rows, columns = np.nonzero(looks_kept(picture))
    height, width = picture.shape[:2]
    # Both points lie half-way down, so the line is level, from 100.5 px into image 0 to 300.5 px
    # into image 1, which starts after a gap.
    gap = 0.015 * 800
    scale = width / (800 + gap)
    assert abs(rows.mean() / height - 150.5 / 300) < 0.01
    assert abs(columns.min() - 100.5 * scale) < 4
    assert abs(columns.max() - (400 + gap + 300.5) * scale) < 4


def test_rejected_match_is_fainter_and_without_the_kept_colour(tmp_path):
    kept = photographs(draw(tmp_path / "k.png", [[50, 20]], [[350, 280]], [True]))
    rejected = photographs(draw(tmp_path / "r.png", [[50, 20]], [[350, 280]], [False]))
    assert looks_kept(kept).any() and not looks_kept(rejected).any()
    nothing = photographs(draw(tmp_path / "n.png", [], [], []))
    faint = np.abs(rejected - nothing).max()
    assert 5 < faint < 0.5 * np.abs(kept - nothing).max()


def test_photographs_of_different_size_are_shown_at_one_height(tmp_path):
    shapes = {"shape0": (300, 200), "shape1": (1200, 2400)}
    # In both the lower right corner: at the bottom, whatever the photograph's height.
    picture = photographs(
        draw(tmp_path / "p.png", [[199, 299]], [[2399, 1199]], [True], grey=255, **shapes)
    )
    height, width = picture.shape[:2]
    assert width == 1200
    rows, columns = np.nonzero(looks_kept(picture))
    assert rows.min() > 0.98 * height
    assert columns.max() > 0.99 * width


def test_colour_photographs_and_no_matches(tmp_path):
    reddish = np.zeros((60, 80, 3), np.uint8)
    reddish[..., 0] = 200
    plot_matches(
        tmp_path / "p.png", reddish, reddish, np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, bool),
        title="none",
    )
    r, g, b = photographs(cv2.imread(str(tmp_path / "p.png"))[..., ::-1].astype(int))[100, 100]
    assert r > g == b


def test_photographs_are_read_with_red_first(tmp_path):
    Image.new("RGB", (8, 6), (250, 20, 0)).save(tmp_path / "red.png")
    rgb = read_image_rgb(tmp_path / "red.png")
    assert rgb.shape == (6, 8, 3)
    assert (rgb == (250, 20, 0)).all()


def test_lengths_that_differ_are_named(tmp_path):
    grey = np.zeros((10, 10), np.uint8)
    with pytest.raises(ValueError, match="points0, points1 and kept"):
        plot_matches(
            tmp_path / "p.png", grey, grey, np.zeros((2, 2)), np.zeros((3, 2)), np.ones(2, bool),
            title="",
        )
    assert not (tmp_path / "p.png").exists()


def test_drawing_leaves_the_plots_of_the_caller_alone():
    # pyplot would choose a backend, and keep every figure.
    module = "n3match.pipelines.common.plots.matches"
    code = f"import sys, {module}; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert prepared.run(code) == 0
