"""The pictures of `n3match pose`: epipolar lines in both photographs, or why there are none."""

import json

import cv2
import numpy as np
import pytest
from demo_photos import CAMERAS, PHOTO0, PHOTO1
from matplotlib.figure import Figure

from n3match.geometry import PoseStatus, RelativePose, distort_points
from n3match.matching import PutativeMatches, extract_sift
from n3match.pipelines.cli import main
from n3match.pipelines.common.plots.epipolar import (
    COLOURS,
    epipolar_bands,
    lines_to_draw,
    spread_out,
)
from n3match.pipelines.common.plots.sheet import SideBySide
from n3match.pipelines.two_view.match_images import MatchedPair
from n3match.pipelines.two_view.photograph import read_photograph

TITLE, HEADING, HISTOGRAM = 75, 60, 50 + 240  # pixels of the bands around the photographs
LENS0, LENS1 = np.array([-0.1, 0.03, 0, 0]), np.array([-0.3, 0.1, 1e-3, 0])


def read_rgb(path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1].astype(int)


def has_colour(picture: np.ndarray, colour: str) -> np.ndarray:
    """(H, W) bool: pixels of this very colour, not blended with what is beside it."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.abs(picture - rgb).max(axis=2) <= 6


def toy_view(tmp_path, *, distorted: bool) -> tuple[MatchedPair, RelativePose]:
    """60 true matches of two unlike cameras on grey photographs of unlike size, and the pose."""
    rng = np.random.default_rng(4)
    angle = 0.3
    R = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    t = np.array([0.5, -0.3, 0.81])
    t /= np.linalg.norm(t)
    E = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]]) @ R
    X0 = rng.uniform((-0.4, -0.3, 1), (0.4, 0.3, 1), (60, 3)) * rng.uniform(4, 9, (60, 1))
    photographs, points = [], []
    cameras = (((400, 300), 380.0, LENS0, X0), ((520, 640), 450.0, LENS1, X0 @ R.T + t))
    for i, ((width, height), focal, lens, X) in enumerate(cameras):
        path = tmp_path / f"grey{i}.png"
        cv2.imwrite(str(path), np.full((height, width), 90, np.uint8))
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2 - 8], [0, 0, 1]])
        photographs.append(read_photograph(path, K=K, distortion=lens if distorted else None))
        points.append(distort_points(X[:, :2] / X[:, 2:], K, photographs[-1].distortion))
    n = np.arange(60)
    putative = PutativeMatches(
        points0=points[0], points1=points[1], ratio=np.full(60, 0.5, np.float32),
        mutual=np.ones(60, bool), index0=n, index1=n, distance=np.zeros(60, np.float32),
    )
    features = tuple(extract_sift(photo.image, 10) for photo in photographs)  # none, on grey
    view = MatchedPair(tuple(photographs), features, putative, np.full(60, 3.0), {})
    pose = RelativePose(status=PoseStatus.OK, inliers=n % 3 > 0, R=R, t=t, E=E)
    return view, pose


def test_command_draws_lines_through_the_epipole_of_their_own_image(tmp_path, capsys):
    argv = [str(PHOTO0), str(PHOTO1), *CAMERAS, "--max-keypoints", "1500", "--json"]
    assert main(["pose", *argv, "--plot", str(tmp_path / "p.png")]) == 0
    result, picture = json.loads(capsys.readouterr().out), read_rgb(tmp_path / "p.png")
    gap = 0.015 * 2 * 768
    scale = 1200 / (2 * 768 + gap)  # of the photographs in the picture
    row = 1024 * scale
    assert picture.shape[1] == 1200
    assert abs(picture.shape[0] - (TITLE + 2 * row + HEADING + HISTOGRAM)) < 2

    R, t = np.array(result["R"]), np.array(result["t"])
    K = np.array(result["images"][0]["K"])
    epipoles = [(K @ e)[:2] / e[2] for e in (R.T @ t, t)]
    top = round(TITLE + row + HEADING)
    lines = picture[top : top + int(row)]
    middle = 600
    for colour in COLOURS:
        for half, (left, right) in enumerate(((0, middle), (middle, 1200))):
            y, x = np.nonzero(has_colour(lines[:, left:right], colour))
            assert len(y) > 30
            pixels = np.column_stack((x, y)) / scale
            if half:
                pixels[:, 0] -= 768 + gap - middle / scale
            centre = pixels.mean(axis=0)
            along = np.linalg.svd(pixels - centre)[2][0]
            to_epipole = epipoles[half] - centre
            cosine = abs(along @ to_epipole) / np.linalg.norm(to_epipole)
            assert np.degrees(np.arccos(min(1.0, cosine))) < 2, (colour, half)


@pytest.mark.parametrize("distorted", [False, True])
def test_each_point_is_drawn_on_its_line_and_in_its_colour(tmp_path, distorted):
    view, pose = toy_view(tmp_path, distorted=distorted)
    drawn = lines_to_draw(view.photographs, view.putative, pose)
    assert len(drawn.chosen) == len(set(drawn.chosen)) == len(COLOURS)
    assert pose.inliers[drawn.chosen].all()
    view.plot(tmp_path / "p.png", pose)
    picture = read_rgb(tmp_path / "p.png")

    images = SideBySide(*(photo.image for photo in view.photographs))
    row = images.inches * 100
    points = view.putative.points0, view.putative.points1
    for side in (0, 1):
        for i, pieces, colour in zip(drawn.chosen, drawn.lines[side], COLOURS):
            every = np.concatenate(pieces)
            ends = np.stack((every[:-1], every[1:]))
            s = np.linspace(0, 1, 200)[:, None, None]
            dense = (ends[0] + s * (ends[1] - ends[0])).reshape(-1, 2)
            assert np.linalg.norm(dense - points[side][i], axis=1).min() < 1.5
            assert (len(every) == 2) is not distorted
            (place,) = images.place(side, points[side][[i]]) * row
            x, y = round(place[0]), round(place[1] + TITLE + row + HEADING)
            assert has_colour(picture[y - 1 : y + 2, x - 1 : x + 2], colour).any()


def test_choice_prefers_other_lines_to_other_points_of_one_line():
    sideways = np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0.0]])  # lines are rows
    x = np.array([[0, 0], [0.5, 0], [-0.5, 0], [0, 0.3], [0.1, -0.3], [0.1, -0.3], [0.0, 0.15]])
    chosen = spread_out(x, x - (0.1, 0), sideways, 4)
    assert chosen[0] == 0 and set(chosen[1:3]) == {3, 4} and chosen[3] == 6
    # Rows 4 and 5 are at one place.
    assert sorted(spread_out(x, x - (0.1, 0), sideways, 12)) == [0, 1, 2, 3, 4, 6]
    assert spread_out(x[:0], x[:0], sideways, 12).shape == (0,)
    ahead = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 0.0]])  # x[0] is the epipole of both images
    assert len(spread_out(x[:5], x[:5], ahead, 12)) == 5


def test_without_a_pose_the_picture_says_why(tmp_path):
    view, known = toy_view(tmp_path, distorted=False)
    none = RelativePose(
        status=PoseStatus.TOO_FEW_MATCHES, inliers=np.zeros(60, bool),
        detail="a sentence that is long " * 8,
    )
    images = SideBySide(*(photo.image for photo in view.photographs))
    (band,) = epipolar_bands(images, view.photographs, view.putative, none)
    axes = Figure().add_axes((0, 0, 1, 1))
    band.draw(axes)
    (text,) = (text.get_text() for text in axes.texts)
    assert "No epipolar lines" in text and "too_few_matches" in text and "sentence" in text
    assert max(map(len, text.splitlines())) <= 120 and text.count("\n") == 2

    view.plot(tmp_path / "none.png", none)
    view.plot(tmp_path / "known.png", known)
    heights = [read_rgb(tmp_path / name).shape[0] for name in ("none.png", "known.png")]
    assert abs(heights[1] - heights[0] - (images.inches * 100 + HEADING - 100 * band.inches)) < 2
    # The first colour is of nothing else in the pictures.
    seen = [has_colour(read_rgb(tmp_path / n), COLOURS[0]).any() for n in ("none.png", "known.png")]
    assert seen == [False, True]
