"""Files of others and names in them; files of ours that are whole or absent."""

import ast
import os
import zipfile
from pathlib import Path

import pytest
import torch

from n3match.files import given
from n3match.files.whole import check_target, whole_file, write_whole
from n3match.pipelines.common.plain_torch import load_plain

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for room in ("n3match", "datasets", "pipelines") for path in (ROOT / room).rglob("*.py")
]


def test_regular_files_alone_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("ä")
    (tmp_path / "link").symlink_to("a.txt")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 1 << 40)
    (tmp_path / "latin").write_bytes(b"\xe4")
    assert given.read_text(tmp_path / "a.txt") == "ä"
    assert given.read_text(tmp_path / "link") == "ä"
    for name, error, said in (
        ("pipe", ValueError, "is a pipe or a device"), ("zero", ValueError, "is a pipe or a dev"),
        (".", ValueError, "is a folder"), ("large", ValueError, "holds 1099511627776 bytes"),
        ("loop", FileNotFoundError, "no such file"), ("\0", FileNotFoundError, "no such file"),
        ("none", FileNotFoundError, "no such file"), ("latin", ValueError, "UTF-8"),
    ):
        with pytest.raises(error, match=said):
            given.read_text(tmp_path / name)


def test_names_lead_nowhere_else(tmp_path):
    assert given.inside(tmp_path, "db/a b..jpg", "m") == tmp_path / "db/a b..jpg"
    for name in ("../x", "a/../../x", "/etc/passwd", "C:\\x", "\\\\host\\x", "a\\..\\x", "", "a\0"):
        with pytest.raises(ValueError, match=r"images\.bin: the name .* leads out of"):
            given.inside(tmp_path, name, "images.bin")


@pytest.mark.parametrize("text", ["[" * 10**5, "1", "nothing", "[]", '{"a": ' + "9" * 5000 + "}"])
def test_json_that_is_no_object_is_said_so(text):
    with pytest.raises(ValueError, match="weights: config: "):
        given.parse_json(text, "weights: config")
    assert given.parse_json('{"a": [1]}', "x") == {"a": [1]}


def test_pipes_and_devices_are_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        with pytest.raises(OSError, match="is a pipe or a device"):
            check_target(tmp_path / name)
        with pytest.raises(OSError, match="is a pipe or a device"):
            write_whole(tmp_path / name, "x")
    assert (tmp_path / "null").is_symlink()
    with pytest.raises(OSError, match="is a pipe or a device"):
        check_target("/dev/null")


def test_temporary_name_is_no_way_to_another_file(tmp_path):
    """In a folder that others write to, the name of this process may be their link."""
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / f".out.{os.getpid()}.tmp").symlink_to("theirs")
    with whole_file(tmp_path / "out") as temporary:
        assert not temporary.is_symlink()
        temporary.write_text("ours")
    assert (tmp_path / "out").read_text() == "ours"
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "theirs"]


def test_checkpoints_run_no_code_and_unpack_to_no_more_than_they_are(tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"net": Code()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"code\.pth: is not a checkpoint"):
        load_plain(tmp_path / "code.pth", "a checkpoint")
    assert not (tmp_path / "run").exists()
    torch.save({"net": torch.zeros(10**5)}, tmp_path / "plain.pth")
    assert load_plain(tmp_path / "plain.pth", "a checkpoint")["net"].numel() == 10**5
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(ValueError, match=r"packed\.pth: is not a checkpoint: .* in it is packed"):
        load_plain(tmp_path / "packed.pth", "a checkpoint")


def calls_in(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}, node


def test_no_code_is_read_from_files():
    """Neither pickles nor expressions; `torch.load` and `numpy.load` are told so each time."""
    seen = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            name.name.partition(".")[0]
            for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
        } | {
            (node.module or "").partition(".")[0]
            for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
        }
        assert not imported & {"pickle", "dill", "joblib", "marshal", "shelve", "yaml"}, path
        for function, options, node in calls_in(path):
            where = f"{path}:{node.lineno}"
            if function.endswith(("torch.load", "torch.hub.load")):
                assert options.get("weights_only") == "True", where
                seen.add("torch")
            if function.endswith(("np.load", "numpy.load")):
                assert options.get("allow_pickle") == "False", where
                seen.add("numpy")
            assert function not in ("eval", "exec", "os.system", "os.popen"), where
            assert "shell" not in options, where
    assert seen == {"torch", "numpy"}


def test_hdf5_of_others_is_opened_in_one_place():
    """Elsewhere files are opened to be written, or are the user's own, given open."""
    reading = []
    for path in SOURCES:
        for function, _, node in calls_in(path):
            mode = ast.unparse(node.args[1]) if len(node.args) > 1 else "'r'"
            if function == "h5py.File" and "w" not in mode:
                reading.append(path.relative_to(ROOT).as_posix())
    assert sorted(reading) == [
        "n3match/files/hdf5.py", "pipelines/benchmarks/filter_file.py", "pipelines/fuzz/kills.py"
    ]
