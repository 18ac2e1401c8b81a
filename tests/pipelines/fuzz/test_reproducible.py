"""Every command that writes: the same seed on the same machine gives the same, bit by bit."""

import pytest

from n3match.pipelines.fuzz import kills
from n3match.pipelines.fuzz.kills import COMMANDS, contents

# These take seconds; tests of their own compare what they leave, and `fuzz --what kills` does.
SLOW = ("reconstruct", "evaluate-pose", "train-filter")
FAST = [command for command in COMMANDS if command.name not in SLOW]


@pytest.mark.parametrize("command", FAST, ids=lambda command: command.name)
def test_same_seed_same_files(tmp_path, command):
    inputs = tmp_path / "inputs"
    (inputs / "out").mkdir(parents=True)
    command.write(inputs)
    found = []
    for _ in "01":  # in one place: paths are part of some results
        kills._fresh(inputs, tmp_path / "run")
        assert kills._run(command, tmp_path / "run") == 0
        found.append(contents(tmp_path / "run" / "out", command))
    assert found[0] and found[0] == found[1]
