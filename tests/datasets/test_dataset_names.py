"""The public face of the data."""

import subprocess
import sys

import pytest

from n3match import datasets


def test_all_public_names_load():
    for name in datasets.__all__:
        assert getattr(datasets, name) is not None
        assert name in dir(datasets)
    with pytest.raises(AttributeError, match="no attribute 'PairDatasets'"):
        datasets.PairDatasets  # noqa: B018


def test_importing_them_alone_does_not_load_torch():
    code = "import sys, n3match.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
