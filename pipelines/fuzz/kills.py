"""Commands that write, killed at random moments, out of disk, forbidden to write, run twice.

Each has an undisturbed run to be compared with. After whatever happened to it, each file that is
there under its final name must be whole; started once more, the command must give what it gave
undisturbed, and leave nothing else behind.
"""

from __future__ import annotations

import atexit
import csv
import importlib.util
import json
import os
import resource
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch

from n3match.pipelines import cli
from n3match.pipelines.common.plain_torch import load_plain
from n3match.pipelines.fuzz import files
from n3match.pipelines.fuzz.outcomes import FOREIGN, RESULT
from n3match.weights import load_weights

#: What happens to a run, and how often.
MODES = {"killed": 0.7, "disk full": 0.12, "read-only": 0.06, "twice at once": 0.12}
_NOBODY = 65534
# Columns of tables that say how long something took.
_TIMES = ("seconds", "read_ms", "filter_ms", "estimator_ms", "s/MP", "cpu_seconds", "time")


@dataclass(frozen=True)
class Command:
    """A command on small inputs.

    Attributes:
        name: of it.
        write: its inputs, into a folder.
        words: of the command line, for that folder; what it writes goes below "out".
        growing: names of files that rows are added to, which aren't replaced as a whole.
        needs: a package.
    """

    name: str
    write: Callable[[Path], object]
    words: Callable[[Path], list[object]]
    growing: tuple[str, ...] = ()
    needs: str = ""


def cases(seed: int, only: str = "") -> Callable[[int], tuple[str, str]]:
    """Case number -> what became of it.

    Args:
        seed: of all cases.
        only: commands with this in their names.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    commands = [
        command for command in COMMANDS
        if only in command.name
        and not (command.needs and importlib.util.find_spec(command.needs) is None)
    ]
    if not commands:
        raise ValueError(f"only: no command that writes has {only!r} in its name, and is installed")
    home = Path(tempfile.mkdtemp(prefix="n3match-kills-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    home.chmod(0o755)
    undisturbed: dict[str, tuple[dict[str, object], float]] = {}

    def case(number: int) -> tuple[str, str]:
        rng = np.random.default_rng([seed, number])
        command = commands[number % len(commands)]
        inputs = home / command.name
        if not inputs.exists():
            inputs.mkdir()
            (inputs / "out").mkdir()
            command.write(inputs)
        folder = home / "case"
        if command.name not in undisturbed:
            _fresh(inputs, folder)
            began = time.monotonic()
            status = _run(command, folder)
            if status:
                return FOREIGN, f"{command.name}(undisturbed): ended with {status}"
            seconds = time.monotonic() - began
            undisturbed[command.name] = contents(folder / "out", command), seconds
        wanted, seconds = undisturbed[command.name]
        mode = str(rng.choice([*MODES], p=[*MODES.values()]))
        _fresh(inputs, folder)
        told, problem = _disturbed(command, folder, mode, seconds, rng)
        told = f"{command.name}({told})"
        problem = problem or _problem(folder / "out", command, wanted)
        if not problem:
            status = _run(command, folder)
            found = contents(folder / "out", command)
            if status:
                problem = f"started again it ended with {status}"
            elif found != wanted:
                differ = [k for k in {*found, *wanted} if found.get(k) != wanted.get(k)]
                problem = f"started again it left other results than undisturbed: {differ}"
        return (FOREIGN, f"{told}: {problem}") if problem else (RESULT, told)

    return case


def _fresh(inputs: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(inputs, folder)
    for path in (inputs, *inputs.rglob("*")):  # a run is known by its inputs' times, too
        times = path.stat()
        os.utime(folder / path.relative_to(inputs), ns=(times.st_atime_ns, times.st_mtime_ns))


def _disturbed(
    command: Command, folder: Path, mode: str, seconds: float, rng: np.random.Generator
) -> tuple[str, str]:
    """A run that something happens to: what, in words, and what is wrong with how it ended."""
    if mode == "killed":
        after = float(rng.uniform(0, 1.1 * seconds))
        process = _start(command, folder)
        time.sleep(after)
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return f"killed after {after:.3f} s of {seconds:.3f} s", ""
    if mode == "disk full":
        most = int(2 ** rng.uniform(6, 18))
        status = _run(command, folder, lambda: _limit_files(most))
        return f"files of {most} bytes at most", "" if status in (0, 2) else f"ended with {status}"
    if mode == "read-only":
        if os.getuid() != 0:
            (folder / "out").chmod(0o555)
            status = _run(command, folder)
        else:  # who may write everywhere, so that it is done as nobody
            status = _run(command, folder, _as_nobody)
        (folder / "out").chmod(0o755)
        return "nowhere to write", "" if status == 2 else f"ended with {status}, wanted 2"
    first = _start(command, folder)
    time.sleep(float(rng.uniform(0, 0.3 * seconds)))
    second = _start(command, folder)
    ended = [_status(process) for process in (first, second)]
    fine = all(status in (0, 2) for status in ended) and 0 in ended
    return "twice at once", "" if fine else f"the two ended with {ended}"


def _problem(out: Path, command: Command, wanted: dict[str, object]) -> str:
    """What is wrong with the files that are there under their final names; "": nothing."""
    try:
        found = contents(out, command)
    except Exception as error:  # whatever a damaged file makes of its reader
        return f"a file isn't whole: {type(error).__name__}: {error}"
    for name, content in found.items():
        known = name in wanted or name.partition("/")[0] in wanted
        is_final = known and Path(name).name not in command.growing
        if is_final and content != wanted.get(name) and not _may_grow(name):
            return f"{name} isn't what it is undisturbed"
    return ""


def _may_grow(name: str) -> bool:
    """States of a run and tables are whole, but of an earlier moment."""
    return Path(name).suffix in (".pt", ".safetensors", ".csv", ".db")


def contents(out: Path, command: Command) -> dict[str, object]:
    """What each file below a folder says, by its name, but for times; work that goes on is left
    out, as are temporary files.

    Raises:
        Exception: a file can't be read as what its name says.
    """
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        hidden = any(part.startswith(".") or part.endswith((".part", ".parts"))
                     for part in Path(name).parts)
        # SQLite's own beside a database, which it ends when that is read.
        if hidden or path.is_dir() or name.endswith(("-journal", "-wal", "-shm")):
            continue
        found[name] = _content(path, path.name in command.growing)
    return found


def _content(path: Path, growing: bool) -> object:
    if path.suffix == ".h5":
        with h5py.File(path, "r") as file:
            return dict(_datasets(file))
    if path.suffix == ".db":
        return _rows(path)
    if path.suffix == ".csv":
        return _table(path)
    if path.suffix == ".pt":
        return _plain(load_plain(path, "a state"))
    if path.suffix == ".safetensors":
        return _plain(load_weights(path))
    if path.suffix == ".json":
        return _without_times(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".md":
        return len(path.read_text(encoding="utf-8").splitlines())  # its figures are times, too
    if path.suffix in (".png", ".jpg"):
        return cv2.imread(str(path), cv2.IMREAD_UNCHANGED).tobytes()
    return path.read_bytes()


def _datasets(file: h5py.File) -> Iterator[tuple[str, object]]:
    found = []
    file.visititems(lambda name, item: found.append((name, item)))
    for name, item in found:
        if isinstance(item, h5py.Dataset):
            data = item[()]
            yield name, data.tolist() if data.dtype.kind == "O" else data.tobytes()


def _rows(path: Path) -> object:
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA integrity_check").fetchall()
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall()
                for (name,) in tables.fetchall() if name != "sqlite_sequence"}
    finally:
        connection.close()


def _table(path: Path) -> list:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = [i for i, name in enumerate(rows[0] if rows else ()) if name not in _TIMES]
    return sorted([row[i] for i in kept] for row in rows)


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if "seconds" not in k}
    return value


def _plain(value: object) -> object:
    """Numbers of tensors as bytes, so that they can be compared."""
    if isinstance(value, torch.Tensor):
        return value.detach().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value


def _run(command: Command, folder: Path, prepare: Callable[[], object] | None = None) -> int:
    return _status(_start(command, folder, prepare))


def _status(process: int) -> int:
    """Its exit status; negative: the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _start(command: Command, folder: Path, prepare: Callable[[], object] | None = None) -> int:
    """The command in a copy of this process, which has loaded everything; its number."""
    words = [str(word) for word in command.words(folder)]
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        if prepare is not None:
            prepare()
        status = cli.main([*words, "--quiet"])
    finally:
        os._exit(status)


def _limit_files(most: int) -> None:
    # A full disk is an error of a write; the signal of the limit is left aside.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _as_nobody() -> None:
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


# --- commands ----------------------------------------------------------------------------------


def _photographs(folder: Path) -> None:
    (folder / "photographs").mkdir()
    texture = files._picture(3, (320, 240))
    for i in range(3):
        shift = np.float32([[1, 0.01 * i, -6 * i], [0, 1, 2 * i]])
        image = cv2.warpAffine(texture, shift, (320, 240), borderMode=cv2.BORDER_REFLECT)
        cv2.imwrite(str(folder / "photographs" / f"{i}.png"), image[20:220, 20:300])
    files.save_weights(folder / "filter.safetensors", files.tiny_filter("all"))
    files.save_weights(folder / "denoiser.safetensors", files.tiny_denoiser("colour"))
    files.save_weights(folder / "grey.safetensors", files.tiny_denoiser("plain"))


def _relief(folder: Path) -> None:
    """Photographs that COLMAP's mapper makes a model of: layers of texture at several depths."""
    (folder / "photographs").mkdir()
    layers = [files._picture(seed, (900, 480)) for seed in range(4)]
    for i in range(4):
        image = np.zeros((480, 640, 3), np.uint8)
        for place, layer in enumerate(layers):
            shift = round(18 * i * (1 + 0.6 * place))
            rows = slice(120 * place, 120 * (place + 1))
            image[rows] = layer[rows, 60 + shift : 700 + shift]
        cv2.imwrite(str(folder / "photographs" / f"{i}.png"), cv2.GaussianBlur(image, (0, 0), 0.7))


def _scene(folder: Path) -> None:
    files._write_model(folder)
    (folder / "images").mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / "images" / f"{i}.png"), files._picture(i))


def _two_scenes(folder: Path) -> None:
    """Photographs side by side of bands of texture at several depths, with COLMAP models."""
    width, band, count, focal = 320, 80, 4, 300.0
    shifts = (10, 16, 22)  # pixels from a photograph to the next one
    u, v = np.meshgrid(np.arange(4, width + 3 * max(shifts), 12), np.arange(4, 3 * band, 12))
    depth = focal / np.array(shifts)[v // band]
    places = np.stack([(u - width / 2) * depth / focal, (v - 120) * depth / focal, depth], -1)
    for name, seed in (("a", 10), ("b", 20)):
        scene = folder / name
        (scene / "images").mkdir(parents=True)
        layers = [files._picture(seed + i, (width + count * max(shifts), band)) for i in range(3)]
        lines = []
        for i in range(count):
            rows = [layer[:, i * s : i * s + width] for layer, s in zip(layers, shifts)]
            cv2.imwrite(str(scene / "images" / f"{i}.png"), np.concatenate(rows))
            x = u - i * np.array(shifts)[v // band]
            seen = np.flatnonzero((x >= 0) & (x < width))
            lines.append(f"{i} 1 0 0 0 {-i} 0 0 1 {i}.png")
            lines.append(" ".join(f"{x.flat[n]} {v.flat[n]} {n}" for n in seen))
        (scene / "images.txt").write_text("\n".join(lines) + "\n")
        (scene / "cameras.txt").write_text(
            f"1 PINHOLE {width} {3 * band} {focal} {focal} {width / 2} 120\n"
        )
        lines = [f"{n} {x} {y} {z} 0 0 0 0.5" for n, (x, y, z) in enumerate(places.reshape(-1, 3))]
        (scene / "points3D.txt").write_text("\n".join(lines) + "\n")


def _verdict(folder: Path) -> list[object]:
    return [
        "--work", folder / "out" / "work", "--keypoints", 300, "--real", 3, "--other-part", 2,
        "--other-side", 0, "--other-place", 4,
    ]


def _with_weights(write: Callable[[Path], object]) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        write(folder)
        files.save_weights(folder / "filter.safetensors", files.tiny_filter("all"))

    return both


def _filter(folder: Path) -> list[object]:
    return ["--filter", folder / "filter.safetensors"]


COMMANDS = (
    Command("match", _photographs, lambda f: [
        "match", f / "photographs", f / "out" / "matches.db", *_filter(f)]),
    Command("match-hloc", _photographs, lambda f: [
        "match", f / "photographs", f / "out" / "hloc", *_filter(f)]),
    Command("filter-h5", _with_weights(files._write_hloc), lambda f: [
        "filter-h5", f / "features.h5", f / "matches.h5", f / "out" / "kept.h5", *_filter(f)]),
    Command("filter-colmap", _with_weights(files._write_database), lambda f: [
        "filter-colmap", f / "database.db", "--out", f / "out" / "kept.db", *_filter(f)]),
    Command("build-pairs", _scene, lambda f: [
        "build-pairs", f, f / "out" / "pairs.h5", "--min-shared", 10, "--processes", 1,
        "--min-consistent", 0]),
    Command("train-filter", lambda folder: None, lambda f: [
        "train-filter", f / "out" / "run", "--generated", 1, "--steps", 4, "--batch", 1,
        "--min-matches", 16, "--max-matches", 24, "--save-every", 1, "--device", "cpu"],
        growing=("log.csv",)),
    Command("train-denoiser", _photographs, lambda f: [
        "train-denoiser", f / "out" / "run", "--images", f / "photographs", "--steps", 4,
        "--features", 4, "--network", "n3net-2", "--crops", "12x2", "--save-every", 1,
        "--local-steps", 1, "--device", "cpu"], growing=("log.csv",)),
    Command("evaluate-pose", files._write_store, lambda f: [
        "evaluate-pose", f / "pairs.h5", "--filters", "ratio", "mutual", "--estimators",
        "opencv_ransac", "--out", f / "out" / "poses", "--workers", 1, "--worst", 0]),
    Command("evaluate-denoise", _photographs, lambda f: [
        "evaluate-denoise", f / "photographs", "--methods", "noisy", "--weights",
        f / "grey.safetensors", "--out", f / "out" / "noise"]),
    Command("denoise", _photographs, lambda f: [
        "denoise", f / "photographs", f / "out" / "clean", "--weights",
        f / "denoiser.safetensors"]),
    Command("train-verdict", _two_scenes, lambda f: [
        "train-verdict", f / "a", f / "b", "--val", f / "a", f / "b", "--out",
        f / "out" / "verdict.json", *_verdict(f)]),
    Command("evaluate-verdict", _two_scenes, lambda f: [
        "evaluate-verdict", f / "a", f / "b", "--out", f / "out" / "report", *_verdict(f)]),
    Command("reconstruct", _relief, lambda f: [
        "reconstruct", f / "photographs", f / "out" / "model", "--max-keypoints", 800,
        "--threads", 1], needs="pycolmap"),
)  # fmt: skip
