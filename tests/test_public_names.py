"""The public face of the package."""

import ast
import subprocess
import sys
from pathlib import Path

import prepared
import pytest

import n3match
from n3match import denoising, geometry, matching, nn, ops, plugins, weights
from n3match.matching.side_info import SIDE_INFO


def test_public_names_are_these_and_all_of_them_load():
    assert sorted(n3match.__all__) == [
        "FundamentalMatrix",
        "MatchFilter",
        "PoseStatus",
        "RelativePose",
        "denoise",
        "denoising",
        "estimate_fundamental",
        "estimate_relative_pose",
        "export_onnx",
        "export_program",
        "geometry",
        "match_images",
        "match_logits",
        "matching",
        "nn",
        "ops",
        "plugins",
        "weights",
    ]
    for name in n3match.__all__:
        assert getattr(n3match, name) is not None
        assert name in dir(n3match)
    for module in (denoising, geometry, matching, nn, ops, plugins, weights):
        assert all(hasattr(module, name) for name in module.__all__)
    assert callable(n3match.plugins.opencv.filter_matches)


def test_type_checkers_are_told_the_same_names():
    """They don't run `__getattr__`: the names stand once more under `TYPE_CHECKING`."""
    source = Path(n3match.__file__).read_text(encoding="utf-8")
    (block,) = (node for node in ast.parse(source).body if isinstance(node, ast.If))
    told = {
        name.asname: n3match.__name__ if node.module == "n3match" else node.module
        for node in block.body for name in node.names
    }
    assert told == n3match._MODULES
    assert Path(n3match.__file__).with_name("py.typed").is_file()


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'match_filters'"):
        n3match.match_filters  # noqa: B018


def test_importing_the_package_alone_does_not_load_torch():
    code = "import sys, n3match; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_library_needs_no_pipeline_and_no_dataset():
    """Dependencies point one way."""
    code = (
        "import sys, n3match\n"
        "for name in {*n3match.__all__} - {'match_images'}:\n"  # which reads files
        "    getattr(n3match, name)\n"
        "n3match.plugins.opencv, n3match.plugins.kornia\n"
        "assert 'kornia' not in sys.modules\n"
        "assert 'n3match.two_view' in sys.modules\n"
        "sys.exit(any(m.startswith(('n3match.pipelines', 'n3match.datasets')) for m in "
        "sys.modules))"
    )
    assert prepared.run(code) == 0


def test_folders_do_not_become_top_level_packages():
    code = (
        "import importlib.util as u, n3match.pipelines, n3match.datasets\n"
        "assert u.find_spec('pipelines') is None"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd="/").returncode == 0


@pytest.mark.parametrize("name", ["sift", "sift-cnnet"])
def test_shipped_filters_load(name):
    assert name in weights.shipped()
    net = n3match.MatchFilter.from_pretrained(name)
    assert not net.training
    assert net.side_info == SIDE_INFO


def test_all_shipped_weights_have_a_model_card():
    denoisers = {"n3net", "n3net-25", "n3net-colour", "n3net-fast"}
    assert {"sift", "sift-cnnet", "orb", *denoisers} == set(weights.shipped())
    for name in weights.shipped():
        assert weights.find(name).with_suffix(".md").read_text().startswith(f"# {name}\n")
