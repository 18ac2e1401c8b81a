"""The command line: what users see when all is well, and when it isn't."""

import os
import subprocess
import sys
import zlib

import pytest
from demo_photos import PHOTO0, PHOTO1, blank

from n3match.pipelines.cli import COMMANDS, main
from n3match.pipelines.two_view import pose


def error_line(capsys, *argv) -> str:
    """The one line on standard error of a command that must end with status 2."""
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("n3match: error: ") and err.endswith("\n") and err.count("\n") == 1
    return err


def test_help_lists_all_commands(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("demo", "pose", "match", "evaluate-pose", "train-filter", "build-pairs"):
        assert f"\n    {command} " in out or f"\n    {command}\n" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_names_the_command(command, capsys):
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: n3match {command}")


def test_help_of_no_command_loads_what_takes_seconds():
    code = """
import sys
from n3match.pipelines.cli import COMMANDS, main
for command in ([], *([name] for name in COMMANDS)):
    assert main([*command, "--help"]) == 0
    slow = {"torch", "cv2", "h5py", "matplotlib", "scipy"} & {*sys.modules}
    assert not slow, (command, slow)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("n3match 0.")


def test_no_command_or_an_unknown_one_is_an_error(capsys):
    assert "COMMAND" in error_line(capsys)
    assert "'poze'" in error_line(capsys, "poze", "a.jpg", "b.jpg")
    assert "--frobnicate" in error_line(capsys, "demo", "--frobnicate")


def test_missing_photograph_is_named(capsys, tmp_path):
    line = error_line(capsys, "pose", PHOTO0, tmp_path / "absent.jpg")
    assert "absent.jpg" in line


def test_folder_as_photograph_is_named(capsys, tmp_path):
    assert str(tmp_path) in error_line(capsys, "pose", tmp_path, PHOTO1)


@pytest.mark.parametrize("content", [b"", b"this is no photograph\n" * 50])
@pytest.mark.parametrize("command", [("pose",), ("match", "-o", "matches.h5")])
def test_empty_and_text_files_named_jpg_are_errors(
    capsys, tmp_path, monkeypatch, content, command
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.jpg").write_bytes(content)
    assert "note.jpg" in error_line(capsys, *command, PHOTO0, "note.jpg")
    assert not (tmp_path / "matches.h5").exists()


def test_image_header_that_promises_terapixels_is_an_error(capsys, tmp_path):
    # A PNG whose header says 2 000 000 × 2 000 000 pixels, and nothing else.
    size = (2_000_000).to_bytes(4, "big")
    header = b"IHDR" + size + size + bytes([8, 0, 0, 0, 0])
    chunk = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    assert "huge.png" in error_line(capsys, "pose", tmp_path / "huge.png", PHOTO1)


@pytest.mark.parametrize(
    "text", ["", "800", "800,800,400", "a,b,c,d", "nan,800,400,300", "800,inf,1,1", "0,0,0,0",
             "-8e2,800,400,300", "800,800,400,300,0", "800;800;400;300"],
)
def test_malformed_intrinsics_name_the_option_and_the_form(capsys, text):
    line = error_line(capsys, "pose", PHOTO0, PHOTO1, f"--intrinsics1={text}")
    assert "--intrinsics1" in line and "fx,fy,cx,cy" in line


def test_malformed_intrinsics_as_a_word_of_their_own(capsys):
    # argparse alone would take the list for an option.
    line = error_line(capsys, "pose", PHOTO0, PHOTO1, "--intrinsics1", "-800,800,400,300")
    assert "--intrinsics1" in line and "fx,fy,cx,cy" in line


def test_malformed_distortion_names_the_option(capsys):
    line = error_line(capsys, "match", PHOTO0, PHOTO1, "-o", "m.csv", "--distortion0", "0.1,0.2")
    assert "--distortion0" in line and "k1,k2,p1,p2" in line


@pytest.mark.parametrize(
    "option, value, wanted",
    [
        ("--max-keypoints", "0", "max_keypoints"),
        ("--max-keypoints", "many", "--max-keypoints"),
        ("--max-size", "0", "max_size"),
        ("--seed", "-1", "seed"),
        ("--estimator", "ransack", "poselib"),
        ("--filter", "no-such-weights", "no-such-weights"),
    ],
)
def test_options_out_of_range_are_named(capsys, tmp_path, option, value, wanted):
    photo = blank(tmp_path / "blank.png")
    assert wanted in error_line(capsys, "pose", photo, photo, f"{option}={value}")


def test_weights_that_are_no_weights_are_named(capsys, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"nothing of the kind")
    line = error_line(capsys, "pose", PHOTO0, PHOTO1, "--filter", tmp_path / "w.safetensors")
    assert "w.safetensors" in line


@pytest.mark.parametrize(
    "argv, ending",
    [
        (("pose", "missing0.jpg", "missing1.jpg", "--plot"), ".png"),
        (("match", "missing0.jpg", "missing1.jpg", "-o"), ".csv"),
        (("match", "missing0.jpg", "missing1.jpg", "-o", "fine.csv", "--plot"), ".png"),
        (("demo", "--out"), ".png"),
    ],
)
def test_unwritable_outputs_are_errors_before_any_photograph_is_read(
    capsys, tmp_path, monkeypatch, argv, ending
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / f"folder{ending}").mkdir()
    for target in (f"no-such-folder/out{ending}", f"file/out{ending}", f"folder{ending}"):
        assert target in error_line(capsys, *argv, target)
    assert "picture.bmp" in error_line(capsys, *argv, "picture.bmp")
    assert sorted(os.listdir(tmp_path)) == ["file", f"folder{ending}"]


def test_read_only_folder_is_an_error(capsys, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("the superuser may write everywhere")
    tmp_path.chmod(0o500)
    assert "not writable" in error_line(capsys, "demo", "--out", tmp_path / "picture.png")


def test_traceback_option_shows_where_an_error_came_from(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg"):
        main(["--traceback", "pose", str(PHOTO0), str(tmp_path / "absent.jpg")])


def test_interruption_ends_quietly(capsys, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pose, "main", interrupted)
    assert main(["pose", "a.jpg", "b.jpg"]) == 130
    assert capsys.readouterr().err == "n3match: interrupted\n"


def test_errors_of_our_own_making_keep_their_traceback(monkeypatch):
    def broken(arguments):
        raise AssertionError("a bug")

    monkeypatch.setattr(pose, "main", broken)
    with pytest.raises(AssertionError, match="a bug"):
        main(["pose", "a.jpg", "b.jpg"])


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_stops_reading_gets_no_traceback(lines):
    code = f"""
import sys, types
from n3match.pipelines.cli import main
talker = types.ModuleType("n3match.pipelines.two_view.pose")
talker.add_arguments = lambda parser: None
talker.main = lambda arguments: print("line\\n" * {lines}) or 0
sys.modules["n3match.pipelines.two_view.pose"] = talker
sys.stdin.readline()
sys.exit(main(["pose"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    process.stdout.close()  # nobody reads what it is about to write
    process.stdout = None
    _, err = process.communicate(b"go\n")
    assert (process.returncode, err) == (1, b"")


# Every command that writes: arguments whose last is the output. No input is there: what is said of
# the output is found first.
_FILES = {
    "pose": ["absent.jpg", "absent.jpg", "--plot", "m.png"],
    "match": ["absent.jpg", "absent.jpg", "-o", "m.csv"],
    "demo": ["--out", "m.png"],
    "filter-h5": ["absent.h5", "absent.h5", "out.h5"],
    "filter-colmap": ["absent.db", "--out", "out.db"],
    "export": ["absent.safetensors", "out.onnx"],
    "convert-checkpoint": ["absent.pth", "out.safetensors"],
    "build-pairs": ["absent", "out.h5"],
    "train-verdict": ["absent", "--val", "absent", "--work", "kept", "--out", "out.json"],
}
_FOLDERS = {
    "evaluate-pose": ["absent.h5", "--out", "out"],
    "evaluate-denoise": ["absent", "--out", "out"],
    "evaluate-pose-noise": ["absent", "--out", "out"],
    "denoise-dnd": ["absent", "--weights", "absent", "out"],
    "train-filter": ["out"],
    "train-denoiser": ["--images", "absent", "--", "out"],
    "compare-sfm": ["absent", "--out", "out"],
    "evaluate-verdict": ["absent", "--work", "kept", "--out", "out"],
    "reconstruct": ["absent", "out"],
    "benchmark": ["--out", "out"],
}


def test_every_command_that_writes_is_listed():
    assert {*_FILES, *_FOLDERS, "denoise", "fuzz"} == {*COMMANDS}  # which writes nothing


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where tests run: with a file and a folder in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("a file")
    (tmp_path / "there").mkdir()
    return tmp_path


@pytest.mark.parametrize("command", _FILES)
@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("./nowhere/{}", "there is no folder nowhere to write into"),
        ("notes.txt//{}", "there is no folder notes.txt to write into"),
        ("there/{}/", "is a folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_first(capsys, folder, command, place, why):
    *argv, name = _FILES[command]
    given = place.format(name)
    assert f"{given}: {why}" in error_line(capsys, command, *argv, given)


@pytest.mark.parametrize("command", _FOLDERS)
def test_a_folder_that_cannot_be_made_is_refused_first(capsys, folder, command):
    *argv, _ = _FOLDERS[command]
    assert "notes.txt is a file" in error_line(capsys, command, *argv, "notes.txt")
    line = error_line(capsys, command, *argv, "notes.txt/./out")
    assert "notes.txt/./out can't be made: notes.txt is a file" in line


@pytest.mark.parametrize("command", [*_FILES, *_FOLDERS])
def test_where_nothing_may_be_written_it_is_said_first(capsys, folder, monkeypatch, command):
    # Who runs the tests may be root, whom modes don't stop.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    *argv, name = {**_FILES, **_FOLDERS}[command]
    line = error_line(capsys, command, *argv, f"there/{name}")
    assert f"there/{name}: the folder there is not writable" in line


@pytest.mark.parametrize("command", ["pose", "filter-h5", "evaluate-pose", "build-pairs"])
def test_urls_are_named_as_they_were_given(capsys, command):
    url = "https://example.com/a/b.jpg"
    assert f"{url}: is a URL" in error_line(capsys, command, url, url, url)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_quiet(command, capsys):
    main([command, "--help"])
    assert "--quiet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "wanted", "other"),
    [
        ("n3match po", "pose", "match"),
        ("n3match pose --st", "--stored-pixels", "--sigma"),
        ("n3match evaluate-pose a.h5 --sampling by", "by_weight", "uniform"),
    ],
)
def test_the_shell_completes_commands_and_options(tmp_path, line, wanted, other):
    pytest.importorskip("argcomplete")
    out = tmp_path / "completions"
    shell = {
        "_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(out), "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line, "COMP_POINT": str(len(line)),
    }
    command = [sys.executable, "-m", "n3match.pipelines.cli"]
    subprocess.run(command, env={**os.environ, **shell}, check=True)
    found = out.read_text().split()
    assert wanted in found and other not in found
