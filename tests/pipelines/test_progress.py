"""How far long work is: a bar on a terminal, lines elsewhere, nothing where that is wanted."""

import re
import sys

import pytest

from n3match.pipelines.common import progress
from n3match.pipelines.common.progress import Progress, duration, quietly


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass as the test says."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def lines(capsys) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_where_there_is_no_terminal_a_line_is_written_now_and_then(clock, capsys):
    with Progress(200, "pair", done=100) as work:
        for _ in range(100):
            clock(1)
            work.update()
    assert lines(capsys) == [
        "n3match: 105/200 pairs (52%), 0:05 passed, about 1:35 left",
        "n3match: 135/200 pairs (68%), 0:35 passed, about 1:05 left",
        "n3match: 165/200 pairs (82%), 1:05 passed, about 0:35 left",
        "n3match: 195/200 pairs (98%), 1:35 passed, about 0:05 left",
        "n3match: 200/200 pairs (100%), 1:40 passed",
    ]


def test_what_is_done_soon_says_nothing(clock, capsys):
    with Progress(3, "pair") as work:
        for _ in range(3):
            clock(1)
            work.update()
    assert lines(capsys) == []


def test_parts_of_a_unit_and_what_is_done(clock, capsys):
    with Progress(2, "image") as work:
        work.describe("a.png")
        clock(60)
        work.reach(0.25)
    # What was said already isn't said again at the end.
    assert lines(capsys) == [
        "n3match: a.png, 0.25/2 images (12%), 1:00 passed, about 7:00 left"
    ]


def test_no_line_of_the_end_after_an_error(clock, capsys):
    with pytest.raises(KeyError), Progress(2, "image") as work:
        clock(60)
        work.update()
        raise KeyError
    assert len(lines(capsys)) == 1


@pytest.mark.parametrize("within", [True, False])
def test_quietly_nothing_is_shown_but_what_is_said(clock, capsys, within):
    with quietly(within), quietly(False):
        work = Progress(2, "image", shown=within)
        with work:
            clock(60)
            work.update()
            work.say("n3match: error: a.png")
    assert lines(capsys) == ["n3match: error: a.png"]


def test_on_a_terminal_a_bar_is_drawn(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(4, "image", done=1) as work:
        work.describe("a.png")
        clock(2)
        work.reach(2.125)
        work.say("a word")
        work.reach(4)
    err = capsys.readouterr().err
    assert re.search(r"a\.png: +25%\|.*\| \S+<\?, 1/4 images", err)
    assert ", 2.12/4 images" in err
    assert "a word\n" in err
    assert re.search(r"100%\|.*\| \S+<00:00, 4/4 images", err)
    assert "n3match" not in err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0:00"), (59.7, "1:00"), (725, "12:05"), (10821, "3:00:21")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
