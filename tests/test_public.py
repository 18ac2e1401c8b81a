"""The public face, pinned."""

import subprocess
import sys

import n3match
from n3match import geometry, matching, nn, ops, plugins, weights


def test_public_names():
    assert sorted(n3match.__all__) == [
        "MatchFilter", "PoseStatus", "RelativePose", "estimate_relative_pose", "geometry",
        "matching", "nn", "ops", "plugins", "score_matches", "weights",
    ]
    for module in (n3match, geometry, matching, nn, ops, plugins, weights):
        assert all(hasattr(module, name) for name in module.__all__)


def test_library_depends_on_no_pipeline_and_no_dataset():
    """Dependencies point one way."""
    code = (
        "import sys, n3match; "
        "bad = [m for m in sys.modules if m.startswith(('n3match.pipelines', 'n3match.datasets'))];"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_folders_do_not_become_top_level_packages():
    code = (
        "import importlib.util as u; "
        "assert u.find_spec('n3match.datasets') and u.find_spec('n3match.pipelines'); "
        "import n3match.pipelines, n3match.datasets"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_shipped_weights():
    assert {"sift", "sift-cnnet"} <= set(weights.shipped())
    for name in weights.shipped():
        net = n3match.MatchFilter.from_pretrained(name)
        assert not net.training
        assert net.side_information == ("ratio", "mutual")
        card = weights.find(name).with_suffix(".md")
        assert card.is_file(), f"{name} has no model card"
