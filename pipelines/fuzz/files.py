"""Damaged and hostile files for everything that reads any: functions and commands.

A kind of input is written once, whole; a case changes one of its files, or puts something else in
its place (a link, a device, a pipe, a folder), and reads it in the way that a user would.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import io
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch
from PIL import Image

from n3match.datasets import PairDataset, PairStoreWriter, ReadOptions, find_scenes, read_scene
from n3match.datasets.denoising.clean_images import CleanImages
from n3match.datasets.denoising.dnd import read_image as read_dnd_image
from n3match.datasets.denoising.dnd import read_info
from n3match.datasets.denoising.image_files import read_image
from n3match.datasets.images import ImageFile
from n3match.datasets.pairs.dump import read_dump_record
from n3match.datasets.pairs.store import PairRecord, open_store, read_feature, read_report
from n3match.denoising import Denoiser
from n3match.nn import MatchFilter
from n3match.pipelines import cli
from n3match.pipelines.denoising.released_checkpoint import read_released
from n3match.pipelines.filtering.hloc_files import read_pairs_list
from n3match.pipelines.filtering.image_cameras import read_intrinsics_list
from n3match.pipelines.fuzz.draws import tiny_denoiser, tiny_filter
from n3match.pipelines.fuzz.outcomes import FOREIGN, RESULT, judge_error
from n3match.pipelines.fuzz.spoiled import spoiled
from n3match.pipelines.training.filter.config import TrainingConfig
from n3match.pipelines.training.state import Progress as StateProgress
from n3match.pipelines.training.state import load_state, save_state
from n3match.plugins.colmap import (
    ColmapDatabase,
    NewColmapDatabase,
    covisible_pairs,
    pair_ids,
    read_colmap_model,
    read_colmap_points,
)
from n3match.plugins.colmap.database import CALIBRATED, TwoViewGeometry
from n3match.plugins.colmap.model import ColmapCamera
from n3match.plugins.hloc import (
    add_features,
    add_matches,
    image_names,
    list_pairs,
    read_features,
    read_matches,
)
from n3match.weights import load_weights, save_weights

SIZE = (96, 72)
K = np.array([[100.0, 0, 47.5], [0, 100.0, 35.5], [0, 0, 1]])


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        name: of it.
        write: its files, whole, into a folder.
        read: all that is read of them, from that folder.
        rate: how often, against others.
        text: names of files that are text, or all of them: "*".
    """

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    rate: float = 1.0
    text: str = ""


def cases(seed: int, only: str = "") -> Callable[[int], tuple[str, str]]:
    """Case number -> what became of it; the good files are written once, for this process.

    Args:
        seed: of all cases.
        only: kinds with this in their names.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    kinds = [kind for kind in KINDS if only in kind.name]
    if not kinds:
        raise ValueError(f"only: no kind of files has {only!r} in its name")
    home = Path(tempfile.mkdtemp(prefix="n3match-fuzz-"))
    good: dict[str, Path] = {}
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    for kind in kinds:
        good[kind.name] = home / "good" / kind.name
        good[kind.name].mkdir(parents=True)
        kind.write(good[kind.name])
        told = _read_quietly(kind, good[kind.name])[1]
        if told:
            raise AssertionError(f"the good files of {kind.name} can't be read: {told}")
    rates = np.array([kind.rate for kind in kinds])
    rates /= rates.sum()

    def case(number: int) -> tuple[str, str]:
        rng = np.random.default_rng([seed, number])
        kind = kinds[int(rng.choice(len(kinds), p=rates))]
        folder = home / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good[kind.name], folder, symlinks=True)
        what = _damage(kind, folder, rng)
        outcome, told = _read_quietly(kind, folder)
        left = [p.name for p in home.iterdir() if p.name not in ("good", "case")]
        if left:
            return FOREIGN, f"{kind.name}({what}): left its folder: {left}"
        return outcome, f"{kind.name}({what}): {told}"

    return case


def _read_quietly(kind: Kind, folder: Path) -> tuple[str, str]:
    names = {str(folder), *(path.name for path in folder.rglob("*"))}
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            kind.read(folder)
    except Exception as error:
        return judge_error(error, names)
    return RESULT, ""


def _damage(kind: Kind, folder: Path, rng: np.random.Generator) -> str:
    """Changes one of the files; what was done, in words."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[int(rng.integers(len(files)))]
    if rng.random() < 0.1:
        return f"{path.name} {_replaced(path, rng)}"
    is_text = kind.text == "*" or path.name in kind.text.split()
    data = path.read_bytes()
    found = spoiled(data, rng, text=is_text)
    path.write_bytes(found)
    return f"{path.name} changed from {len(data)} to {len(found)} bytes"


def _replaced(path: Path, rng: np.random.Generator) -> str:
    """Puts something else under the name of a file."""
    other = path.with_name("moved")
    ways: dict[str, Callable[[], object]] = {
        "missing": lambda: None,
        "a folder": path.mkdir,
        "a pipe": lambda: os.mkfifo(path),
        "a link to itself": lambda: path.symlink_to(path),
        "a link to nothing": lambda: path.symlink_to("nowhere"),
        "a link to a device": lambda: path.symlink_to(
            ("/dev/zero", "/dev/null", "/dev/full")[int(rng.integers(3))]
        ),
        "a link to the file": lambda: path.symlink_to(other),
        "empty": lambda: path.write_bytes(b""),
        "of zeros": lambda: path.write_bytes(bytes(4096)),
        "of a large size": lambda: os.truncate(_touched(path), 1 << 34),
        "under another name": lambda: shutil.copy(other, path.with_name(
            _ODD_NAMES[int(rng.integers(len(_ODD_NAMES)))] + path.suffix)),
    }
    way = [*ways][int(rng.integers(len(ways)))]
    path.rename(other)
    ways[way]()
    if way != "a link to the file":
        other.unlink()
    return way


_ODD_NAMES = (
    "a\nb", "\udcff", " a ", "-o", "a;b", "%s", "a b\tc", "..", "a..", "ü" * 60, "\\", "'\"", "*",
)  # fmt: skip


def _touched(path: Path) -> Path:
    path.touch()
    return path


def run_command(*words: object) -> None:
    """A command; its errors are raised as they are, not told in a line."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = cli.main(["--traceback", *map(str, words)])
    # Words that the command doesn't know would be a mistake here.
    is_known = not any(word in said.getvalue() for word in ("unrecognized", "required:"))
    if status not in (0, 1, 2) or not is_known:
        raise AssertionError(f"exit status {status}: {said.getvalue()[-300:]}")


# --- kinds -------------------------------------------------------------------------------------


def _picture(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[1] // 4, size[0] // 4, 3)).astype(np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


def _exif(**tags: object) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    exif.get_ifd(0x8769).update({0xA405: 28, 0x920A: 5.0})  # focal lengths
    return exif


def _image_kinds() -> list[Kind]:
    """One for each format."""
    image = Image.fromarray(_picture())
    pillow = {
        "a.jpg": {"exif": _exif(), "quality": 90},
        "progressive.jpg": {"exif": _exif(), "progressive": True},
        "a.png": {"exif": _exif()},
        "palette.png": {"mode": "P"},
        "alpha.png": {"mode": "RGBA"},
        "a.tif": {"exif": _exif(), "compression": "tiff_lzw"},
        "deflated.tif": {"compression": "tiff_adobe_deflate"},
        "a.webp": {"exif": _exif()},
        "lossless.webp": {"lossless": True},
        "a.bmp": {},
        "a.ppm": {},
        "a.pgm": {"mode": "L"},
    }
    opencv = {
        "deep.png": _picture().astype(np.uint16) * 257,
        "float.tif": _picture().astype(np.float32) / 255,
    }

    def save(folder: Path, name: str, mode: str = "RGB", **options: object) -> None:
        image.convert(mode).save(folder / name, **options)

    def kind(name: str, write: Callable[[Path], object]) -> Kind:
        return Kind(f"image {name}", write, lambda folder: _read_image(folder / name), 0.5)

    found = [
        kind(name, lambda folder, name=name, options=options: save(folder, name, **options))
        for name, options in pillow.items()
    ]
    found += [
        kind(name, lambda folder, name=name, pixels=pixels: cv2.imwrite(
            str(folder / name), pixels))
        for name, pixels in opencv.items()
    ]
    if importlib.util.find_spec("pillow_heif") is not None:
        import pillow_heif

        found.append(
            kind("a.heic", lambda folder: pillow_heif.from_pillow(image).save(folder / "a.heic"))
        )
    return found


def _read_image(path: Path) -> None:
    file = ImageFile(path)
    _ = file.orientation, file.mode
    read_image(file)
    if path.name == "float.tif":  # no photograph: Pillow doesn't know such, nor OpenCV its grey
        return
    size = file.size()
    file.focal_px(*size)
    file.is_stored_frame(size)
    file.gray()
    file.rgb(stored=True)


def _write_weights(folder: Path) -> None:
    save_weights(folder / "filter.safetensors", tiny_filter("pruning"), notes="made to be damaged")
    save_weights(folder / "denoiser.safetensors", tiny_denoiser("blocks"))


def _read_weights(folder: Path) -> None:
    load_weights(folder / "filter.safetensors")
    MatchFilter.from_pretrained(folder / "filter.safetensors")
    Denoiser.from_pretrained(folder / "denoiser.safetensors")


def _points(seed: int, count: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).uniform((0, 0), np.array(SIZE) - 1.0, (count, 2))


def _write_hloc(folder: Path) -> None:
    rng = np.random.default_rng(0)
    names = ("db/a.jpg", "db/b.jpg", "c.jpg")
    with h5py.File(folder / "features.h5", "w") as file:
        for i, name in enumerate(names):
            add_features(
                file, name, _points(i), rng.random((30, 2)) * 9, rng.random(30),
                rng.random((30, 128)), SIZE,
            )
    with h5py.File(folder / "matches.h5", "w") as file:
        index = np.arange(30)
        for pair in ((names[0], names[1]), (names[1], names[2])):
            add_matches(file, pair, 30, np.stack([index, index], 1), np.full(30, 0.5))
        group = file["db-a.jpg/db-b.jpg"]
        group.create_dataset("more", data=np.arange(500), chunks=(100,), compression="gzip")
    (folder / "pairs.txt").write_text("db/a.jpg db/b.jpg\n")
    lines = [f"{name} SIMPLE_RADIAL {SIZE[0]} {SIZE[1]} 100 48 36 0.01" for name in names]
    (folder / "intrinsics.txt").write_text("\n".join(lines) + "\n")


def _read_hloc(folder: Path) -> None:
    with _open(folder / "features.h5") as features, _open(folder / "matches.h5") as matches:
        names = image_names(features)
        for name in names:
            read_features(features, name)
        for pair in list_pairs(matches, names):
            read_matches(matches, pair.group, 30, 30)
    read_pairs_list(folder / "pairs.txt")
    read_intrinsics_list(folder / "intrinsics.txt")


def _open(path: Path) -> h5py.File:
    from n3match.files.hdf5 import open_hdf5

    return open_hdf5(path)


def _filter_hloc(folder: Path) -> None:
    weights = folder.parent / "filter.safetensors"
    save_weights(weights, tiny_filter("all"))
    try:
        run_command(
            "filter-h5", folder / "features.h5", folder / "matches.h5", folder / "out.h5",
            "--filter", weights, "--pairs", folder / "pairs.txt", "--intrinsics",
            folder / "intrinsics.txt", "--quiet",
        )
    finally:
        weights.unlink()


def _write_model(folder: Path) -> None:
    cameras = [(1, 2, *SIZE, (100.0, 48.0, 36.0, 0.01)), (2, 17, *SIZE, (1.0, 2.0))]
    data = struct.pack("<Q", len(cameras))
    for key, model, width, height, params in cameras:
        data += struct.pack("<iiQQ", key, model, width, height)
        data += struct.pack(f"<{len(params)}d", *params)
    (folder / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", 3)
    for i in range(3):
        data += struct.pack("<i7di", i, 1, 0, 0, 0, 0.1 * i, 0, 0, 1) + f"{i}.png".encode() + b"\0"
        data += struct.pack("<Q", 40)
        data += b"".join(struct.pack("<ddq", 1.5, 2.5, point) for point in range(40))
    (folder / "images.bin").write_bytes(data)
    data = struct.pack("<Q", 40)
    for point in range(40):
        data += struct.pack("<Q3d3BdQ", point, 0.1 * point, 1, 5, 1, 2, 3, 0.5, 2)
        data += struct.pack("<4i", 0, point, 1, point)
    (folder / "points3D.bin").write_bytes(data)


def _write_text_model(folder: Path) -> None:
    (folder / "cameras.txt").write_text(
        f"# cameras\n1 OPENCV {SIZE[0]} {SIZE[1]} 100 100 48 36 0.1 0 0 0\n"
    )
    points = " ".join(f"1.5 2.5 {point}" for point in range(30))
    lines = [f"{i} 1 0 0 0 {0.1 * i} 0 0 1 {i}.png\n{points}" for i in range(3)]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    lines = [f"{point} {0.1 * point} 1 5 1 2 3 0.5 0 1" for point in range(30)]
    (folder / "points3D.txt").write_text("\n".join(lines) + "\n")


def _read_model(folder: Path) -> None:
    covisible_pairs(read_colmap_model(folder))
    read_colmap_points(folder)
    for scene in find_scenes(folder, "colmap"):
        read_scene(scene, ReadOptions())


def _write_database(folder: Path) -> None:
    with NewColmapDatabase(folder / "database.db") as database:
        camera = database.add_camera(ColmapCamera(*SIZE, K, np.zeros(4)))
        images = [database.add_image(f"{i}.png", camera) for i in range(3)]
        rng = np.random.default_rng(0)
        for i, image in enumerate(images):
            database.add_keypoints(
                image, _points(i), rng.random((30, 2)) * 9, rng.random((30, 128)) / 9
            )
        index = np.arange(30)
        matches = np.stack([index, index], 1).astype(np.uint32)
        geometry = TwoViewGeometry(CALIBRATED, matches, np.eye(3), np.eye(3), np.eye(3))
        database.add_pair(images[0], images[1], matches, geometry)
        database.add_pair(images[1], images[2], matches)


def _read_database(folder: Path) -> None:
    with ColmapDatabase(folder / "database.db") as database:
        database.cameras()
        database.unsupported_cameras()
        for image in database.images():
            database.keypoints(image)
            database.descriptors(image)
        for pair in database.pairs():
            pair_ids(pair)
            database.matches(pair)


def _filter_database(folder: Path) -> None:
    weights = folder.parent / "filter.safetensors"
    save_weights(weights, tiny_filter("all"))
    try:
        run_command(
            "filter-colmap", folder / "database.db", "--out", folder / "out.db", "--filter",
            weights, "--quiet",
        )
    finally:
        weights.unlink()


def _record(seed: int, count: int = 20) -> PairRecord:
    rng = np.random.default_rng(seed)
    calibrated = rng.normal(size=(count, 4)) / 4
    sizes_angles = np.c_[rng.uniform(1, 9, count), rng.uniform(0, 360, count)]
    record = PairRecord(
        "scene", f"{seed}a.png", f"{seed}b.png", 20, calibrated[:, :2] * 100 + 40,
        calibrated[:, 2:] * 100 + 40, calibrated, rng.random(count), np.eye(3),
        np.array([1.0, 0, 0]), rng.random(count), rng.random(count) < 0.5, rng.random(count),
        np.arange(count), np.arange(count), sizes_angles, sizes_angles, K, K, np.zeros(4),
        np.zeros(4), SIZE, SIZE, rng.random(count), rng.random(count), rng.random(count) < 0.5,
    )
    return record.split(count - 5)


def _write_store(folder: Path) -> None:
    writer = PairStoreWriter(folder / "pairs.h5", {"feature": "opencv-sift-root"})
    writer.write_part("0", [_record(0), _record(1, 300)], problems=["a photograph is missing"])
    writer.finish(["0"])


def _read_store(folder: Path) -> None:
    path = folder / "pairs.h5"
    read_report(path)
    with open_store(path) as file:
        read_feature(file)
        for index in range(len(file["xs"])):
            read_dump_record(file, index, "scene")
    pairs = PairDataset(path, second_nearest=True)
    try:
        for index in range(len(pairs)):
            pairs[index]
            pairs.record(index).with_second()
    finally:
        pairs.close()


def _write_cnnet(folder: Path) -> None:
    images = [f"images/{i}.png" for i in range(2)]
    (folder / "images").mkdir()
    (folder / "calibration").mkdir()
    for i, name in enumerate(images):
        cv2.imwrite(str(folder / name), _picture(i))
        with h5py.File(folder / "calibration" / f"{i}.h5", "w") as file:
            file["K"], file["R"], file["T"] = K, np.eye(3), np.array([[0.2 * i, 0, 0]])
            file["imsize"] = np.array([SIZE])
        (folder / f"visibility{i}.txt").write_text("200\n300\n")
    (folder / "images.txt").write_text("\n".join(images))
    (folder / "calibration.txt").write_text("calibration/0.h5\ncalibration/1.h5\n")
    (folder / "visibility.txt").write_text("visibility0.txt\nvisibility1.txt\n")


def _write_rgbd(folder: Path) -> None:
    (folder / "intrinsics.txt").write_text("100 0 47.5 0 100 35.5 0 0 1")
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.color.png"), _picture(i))
        depth = np.full(SIZE[::-1], 2000, np.uint16)
        cv2.imwrite(str(folder / f"{i}.depth.png"), depth)
        pose = np.eye(4)
        pose[0, 3] = 0.1 * i
        (folder / f"{i}.pose.txt").write_text("\n".join(" ".join(map(str, r)) for r in pose))


def _write_list(folder: Path) -> None:
    for i in range(2):
        cv2.imwrite(str(folder / f"{i}.png"), _picture(i))
    pose = np.eye(4)
    pose[0, 3] = 1
    numbers = [*K.ravel(), *K.ravel(), *pose.ravel()]
    (folder / "list.txt").write_text("0.png 1.png 0 0 " + " ".join(map(str, numbers)) + "\n")


def _read_scenes(folder: Path) -> None:
    path = folder / "list.txt" if (folder / "list.txt").exists() else folder
    for scene in find_scenes(path):
        source = read_scene(scene, ReadOptions())
        for view in source.views.values():
            with contextlib.suppress(ValueError, OSError):  # told of by whoever asks for it
                view.is_stored_frame(ImageFile(view.path))


def _write_checkpoints(folder: Path) -> None:
    net = torch.nn.Linear(2, 2)
    config = TrainingConfig(generated=1.0)
    optimizer = torch.optim.Adam(net.parameters())
    save_state(
        folder / "state.pt", config, StateProgress(step=3), net=net.state_dict(),
        optimizer=optimizer.state_dict(),
    )
    torch.save({"net": net.state_dict(), "epoch": 3}, folder / "released.pth")
    torch.save({"net": net.state_dict()}, folder / "old.pth", _use_new_zipfile_serialization=False)


def _read_checkpoints(folder: Path) -> None:
    load_state(folder / "state.pt", TrainingConfig(generated=1.0), folder / "weights.safetensors")
    read_released(folder / "released.pth")
    read_released(folder / "old.pth")


def _write_cache(folder: Path) -> None:
    (folder / "images").mkdir()
    for i in range(2):
        cv2.imwrite(str(folder / "images" / f"{i}.png"), _picture(i))
    CleanImages([folder / "images"], 1, folder / "images.npy")


def _read_cache(folder: Path) -> None:
    # A copy has other times: they are part of what the cache is known by.
    described = folder / "images.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        small = described.is_file() and described.stat().st_size < 1 << 20
        if small and not described.is_symlink():
            about = json.loads(described.read_text())
            key = json.loads(about["key"])
            for entry in key["files"]:
                entry[2] = (folder / "images" / entry[0]).stat().st_mtime_ns
            about["key"] = json.dumps(key)
            described.write_text(json.dumps(about))
    images = CleanImages([folder / "images"], 1, folder / "images.npy")
    images.crops(np.random.default_rng(0), 2, 16)


def _write_dnd(folder: Path) -> None:
    (folder / "images_raw").mkdir()
    (folder / "images_srgb").mkdir()
    with h5py.File(folder / "info.mat", "w") as file:
        info = file.create_group("info")
        hidden = file.create_group("#refs#")
        boxes = hidden.create_dataset("b", data=np.array([[1.0], [1.0], [16.0], [16.0]]))
        levels = hidden.create_group("n")
        levels["a"], levels["b"] = np.array([[0.01]]), np.array([[0.001]])
        sigma = hidden.create_dataset("s", data=np.array([[0.1]]))
        for name, item in (("boundingboxes", boxes), ("nlf", levels), ("sigma_srgb", sigma)):
            info.create_dataset(name, data=np.array([[item.ref]], h5py.ref_dtype))
    with h5py.File(folder / "images_raw" / "0001.mat", "w") as file:
        file["Inoisy"] = np.random.default_rng(0).random((24, 20), np.float32)
    with h5py.File(folder / "images_srgb" / "0001.mat", "w") as file:
        file["InoisySRGB"] = np.random.default_rng(0).random((3, 24, 20), np.float32)


def _read_dnd(folder: Path) -> None:
    for image in read_info(folder):
        for srgb in (False, True):
            read_dnd_image(folder, image, srgb=srgb)


def _write_photographs(folder: Path) -> None:
    (folder / "photographs").mkdir()
    for i in range(2):
        image = Image.fromarray(_picture(i))
        image.save(folder / "photographs" / f"{i}.jpg", exif=_exif(), quality=90)
    save_weights(folder / "filter.safetensors", tiny_filter("all"))
    save_weights(folder / "denoiser.safetensors", tiny_denoiser("colour"))


def _match_photographs(folder: Path) -> None:
    names = [folder / "photographs" / f"{i}.jpg" for i in (0, 1)]
    weights = ("--filter", folder / "filter.safetensors", "--quiet")
    run_command("match", *names, "--out", folder / "matches.h5", *weights)
    run_command("pose", *names, *weights)


def _match_folder(folder: Path) -> None:
    run_command(
        "match", folder / "photographs", folder / "out.db", "--filter",
        folder / "filter.safetensors", "--quiet",
    )


def _denoise_photographs(folder: Path) -> None:
    run_command(
        "denoise", folder / "photographs", folder / "out", "--weights",
        folder / "denoiser.safetensors", "--quiet",
    )


KINDS = (
    *_image_kinds(),
    Kind("weights", _write_weights, _read_weights, 2.0),
    Kind("hloc", _write_hloc, _read_hloc, 3.0, "pairs.txt intrinsics.txt"),
    Kind("filter-h5", _write_hloc, _filter_hloc, 0.15, "pairs.txt intrinsics.txt"),
    Kind("colmap-binary", _write_model, _read_model, 2.0),
    Kind("colmap-text", _write_text_model, _read_model, 2.0, "*"),
    Kind("colmap-database", _write_database, _read_database, 3.0),
    Kind("filter-colmap", _write_database, _filter_database, 0.15),
    Kind("pair-store", _write_store, _read_store, 2.0),
    Kind("cnnet-scene", _write_cnnet, _read_scenes, 1.0,
         "images.txt calibration.txt visibility.txt visibility0.txt visibility1.txt"),
    Kind("rgbd-scene", _write_rgbd, _read_scenes, 0.5,
         "intrinsics.txt 0.pose.txt 1.pose.txt 2.pose.txt"),
    Kind("pair-list", _write_list, _read_scenes, 1.0, "list.txt"),
    Kind("checkpoints", _write_checkpoints, _read_checkpoints, 2.0),
    Kind("clean-images", _write_cache, _read_cache, 1.0, "images.json"),
    Kind("noise-dataset", _write_dnd, _read_dnd, 1.0),
    Kind("match", _write_photographs, _match_photographs, 0.1),
    Kind("match-folder", _write_photographs, _match_folder, 0.1),
    Kind("denoise", _write_photographs, _denoise_photographs, 0.2),
)
