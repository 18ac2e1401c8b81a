"""The histogram of probabilities in the pictures of `n3match match` and `n3match pose`."""

import cv2
import numpy as np
from demo_photos import CAMERAS, PHOTO0, PHOTO1
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from n3match.pipelines.cli import main
from n3match.pipelines.common.plots.probabilities import (
    KEPT_COLOUR,
    REJECTED_ALPHA,
    REJECTED_COLOUR,
    bin_edges,
    counts_of,
    draw_histogram,
    probability_bands,
)
from n3match.pipelines.common.plots.sheet import BACKGROUND


def drawn(logits, mutual=None):
    axes = Figure().add_axes((0, 0, 1, 1))
    logits = np.asarray(logits, float)
    draw_histogram(axes, logits, np.ones(len(logits), bool) if mutual is None else mutual)
    return axes


def bars(axes, colour: str) -> list[tuple[float, float, float]]:
    """Left and right edge and height of the bars of a colour."""
    return [
        (bar.get_x(), bar.get_x() + bar.get_width(), bar.get_height())
        for bar in axes.patches
        if to_hex(bar.get_facecolor()) == colour and bar.get_height()
    ]


def bar_of_the_rejected() -> np.ndarray:
    """RGB of a pixel of theirs on the picture's ground."""
    ground, colour = (255 * np.array(to_rgb(name)) for name in (BACKGROUND, REJECTED_COLOUR))
    return ground + REJECTED_ALPHA * (colour - ground)


def test_every_match_is_in_a_bar_of_its_colour():
    logits = np.random.default_rng(0).normal(-1, 2, 400)
    axes = drawn(logits)
    kept, rejected = bars(axes, KEPT_COLOUR), bars(axes, REJECTED_COLOUR)
    assert sum(height for *_, height in kept) == np.count_nonzero(logits > 0)
    assert sum(height for *_, height in rejected) == np.count_nonzero(logits <= 0)
    assert min(left for left, *_ in kept) >= 0 >= max(right for _, right, _ in rejected)
    for left, right, height in kept + rejected:
        edge = left + 0.25
        assert height == np.count_nonzero((logits > left) & (logits <= edge)) and right < edge
    low, high = axes.get_ylim()
    assert low < 1 and high > max(height for *_, height in rejected)


def test_threshold_is_an_edge_that_belongs_to_the_rejected():
    logits = np.array([-1e-9, 0.0, 1e-9])
    edges = bin_edges(logits)
    assert edges[0] < 0 < edges[-1] and 0 in edges
    counts = counts_of(logits, edges)
    assert counts[edges[1:] == 0] == 2 and counts[edges[:-1] == 0] == 1 and counts.sum() == 3
    axes = drawn(logits)
    (threshold,) = axes.lines
    assert list(threshold.get_xdata()) == [0, 0]
    assert "kept above ½" in [text.get_text() for text in axes.texts]


def test_ticks_are_probabilities_where_their_logits_are():
    axes = drawn(np.linspace(-5, 5, 30))
    labels = {label.get_text(): tick for label, tick in
              zip(axes.get_xticklabels(), axes.get_xticks())}
    assert labels["0.5"] == 0
    for text, tick in labels.items():
        assert abs(1 / (1 + np.exp(-tick)) - float(text)) < 1e-12
    assert {"0.01", "0.99"} <= set(labels)


def test_probabilities_beyond_the_axis_are_counted_at_its_ends():
    axes = drawn([-300.0, -40, -1, 2, 90])
    (*_, low), *_ = sorted(bars(axes, REJECTED_COLOUR))
    *_, (*_, high) = sorted(bars(axes, KEPT_COLOUR))
    assert (low, high) == (2, 1)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert {"less", "more"} <= set(labels)
    assert "less" not in [label.get_text() for label in drawn([-3.0, 2]).get_xticklabels()]


def test_matches_that_were_not_looked_at_are_named():
    mutual = np.array([True, False, False, True, False])
    texts = [t.get_text() for t in drawn([2, -8, -8, -3, -8], mutual).texts]
    assert any("3 not mutual" in text for text in texts)
    texts = [t.get_text() for t in drawn([2, -8, -7, -3, -8], mutual).texts]
    assert not any("not mutual" in text for text in texts)


def test_no_filter_and_no_matches_are_said():
    for logits, wanted in ((None, "no filter"), (np.zeros(0), "no matches")):
        (band,) = probability_bands(logits, np.zeros(0, bool))
        axes = Figure().add_axes((0, 0, 1, 1))
        band.draw(axes)
        assert wanted in axes.texts[0].get_text()


def test_match_command_draws_matches_above_probabilities(tmp_path, capsys):
    argv = [str(PHOTO0), str(PHOTO1), *CAMERAS, "--max-keypoints", "700"]
    for name, more in (("sift.png", []), ("none.png", ["--filter", "none"])):
        assert main(["match", *argv, *more, "-o", str(tmp_path / "m.csv"),
                     "--plot", str(tmp_path / name)]) == 0
    assert "picture" in capsys.readouterr().out
    picture = cv2.imread(str(tmp_path / "sift.png"))[..., ::-1].astype(int)
    photographs = 75 + 1024 * 1200 / (1.015 * 2 * 768)
    assert abs(picture.shape[0] - (photographs + 50 + 240)) < 2 and picture.shape[1] == 1200
    chart = picture[int(photographs) + 50 :]
    yellow = np.abs(chart - (0xFF, 0xD6, 0x0A)).max(axis=2) < 10
    grey = np.abs(chart - bar_of_the_rejected()).max(axis=2) < 3
    bars = [np.nonzero(colour.sum(axis=0) > 20)[0] for colour in (grey, yellow)]
    assert all(len(columns) > 100 for columns in bars)
    assert bars[0].max() < bars[1].min()
    without = cv2.imread(str(tmp_path / "none.png"))
    assert abs(without.shape[0] - (photographs + 57)) < 2
