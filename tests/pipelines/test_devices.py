"""Where networks run, and in which precision."""

import copy

import pytest
import torch

from n3match.denoising import Denoiser
from n3match.nn import MatchFilter
from n3match.pipelines.cli import COMMANDS, main
from n3match.pipelines.common.devices import checked_device, placed

# Those that run no network, or (training) have --precision for the purpose.
WITHOUT = {
    "export", "convert-checkpoint", "build-pairs", "benchmark", "fuzz", "train-filter",
    "train-denoiser",
}


@pytest.mark.parametrize("command", sorted({*COMMANDS} - WITHOUT))
def test_commands_that_run_a_network_say_where(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "--device" in out and "--half" in out


@pytest.mark.parametrize("name", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=rf"--device: '{name}' can't be used"):
        checked_device(name)


@pytest.mark.parametrize(
    "argv",
    [
        ("pose", "absent.jpg", "absent.jpg"),
        ("evaluate-pose", "absent.h5", "--filters", "sift"),
        ("match", ".", "out"),
        ("reconstruct", ".", "out"),
    ],
)
def test_it_is_said_before_the_work(argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*argv, "--device", "abacus"]) == 2
    assert "--device: 'abacus'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("half", [False, True])
def test_on_a_cpu_a_filter_stays_in_float32_and_a_denoiser_multiplies_bfloat16(half):
    net = placed(MatchFilter.from_pretrained("sift"), "cpu", half)
    assert next(net.parameters()).dtype == torch.float32
    denoiser = placed(Denoiser.from_pretrained("n3net-25"), "cpu", half)
    assert denoiser.products_in == (torch.bfloat16 if half else None)


def test_the_meta_device_stands_for_one_that_is_no_cpu():
    """Half precision of a filter is its weights', of a denoiser its products' alone."""
    net = placed(copy.deepcopy(MatchFilter.from_pretrained("sift")), "meta", True)
    assert next(net.parameters()).dtype == torch.float16
    denoiser = placed(Denoiser.from_pretrained("n3net-25"), "meta", True)
    assert denoiser.products_in == torch.float16
    assert next(denoiser.parameters()).dtype == torch.float32
