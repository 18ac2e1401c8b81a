"""The public face of the package."""

import subprocess
import sys

import pytest

import n3match


def test_public_names_are_these_and_all_of_them_load():
    assert sorted(n3match.__all__) == [
        "MatchFilter",
        "PoseStatus",
        "RelativePose",
        "estimate_relative_pose",
        "geometry",
        "matching",
        "nn",
        "ops",
        "plugins",
        "score_matches",
        "weights",
    ]
    for name in n3match.__all__:
        assert getattr(n3match, name) is not None
        assert name in dir(n3match)
    assert callable(n3match.plugins.opencv.filter_matches)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'match_filters'"):
        n3match.match_filters  # noqa: B018


def test_importing_the_package_alone_does_not_load_torch():
    code = "import sys, n3match; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
