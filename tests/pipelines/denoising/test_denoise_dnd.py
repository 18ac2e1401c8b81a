"""The Darmstadt Noise Dataset: a folder like it, denoised, and read back as its server would."""

import h5py
import numpy as np
import pytest
from scipy.io import loadmat
from tiny_denoisers import random_weights

from n3match.datasets.denoising.dnd import mosaic_places, read_image, read_info
from n3match.denoising import Denoiser, denoise, denoise_raw
from n3match.pipelines.cli import main
from n3match.pipelines.denoising import dnd_submission

BOXES = np.array([[1, 1, 20, 24], [3, 6, 22, 25], [11, 2, 30, 31]])  # MATLAB's: from 1, inclusive
PATTERN = np.array([[2, 1], [3, 2]])


def write_dnd(folder, count=2, **changed):
    """info.mat and images as MATLAB writes them: axes reversed, structs of references."""
    rng = np.random.default_rng(0)
    for kind, name, shape in (("raw", "Inoisy", (40, 36)), ("srgb", "InoisySRGB", (40, 36, 3))):
        (folder / f"images_{kind}").mkdir(parents=True)
        for i in range(count):
            with h5py.File(folder / f"images_{kind}" / f"{i + 1:04d}.mat", "w") as file:
                file[name] = rng.random(shape).T
    with h5py.File(folder / "info.mat", "w") as file:
        info, pool = file.create_group("info"), file.create_group("#refs#")
        values = {"boundingboxes": BOXES, "sigma_srgb": np.array([0.02, 0.1, 0.05])} | changed
        for name in ("boundingboxes", "sigma_srgb", "nlf", "camera"):
            column = info.create_dataset(name, (1, count), h5py.ref_dtype)
            for i in range(count):
                if name in ("nlf", "camera"):
                    entry = pool.create_group(f"{name}{i}")
                    if name == "nlf":
                        entry["a"], entry["b"] = [[0.01 * (i + 1)]], [[0.001]]
                    else:
                        entry["pattern"] = PATTERN
                else:
                    pool[f"{name}{i}"] = np.atleast_2d(values[name]).T
                    entry = pool[f"{name}{i}"]
                column[0, i] = entry.ref
    return folder


def pixels(folder, kind, number):
    name = {"raw": "Inoisy", "srgb": "InoisySRGB"}[kind]
    with h5py.File(folder / f"images_{kind}" / f"{number:04d}.mat") as file:
        return file[name][()].T.astype(np.float32)


def bundled(out, number):
    found = loadmat(out / "bundled" / f"{number:04d}.mat")
    assert found["eval_version"][0] == "1.0"
    return found["Idenoised"].ravel(), bool(found["israw"].item())


def run(*arguments):
    return main(["denoise-dnd", *map(str, arguments)])


@pytest.mark.parametrize("channels", [1, 4])
def test_raw_round_trip(tmp_path, channels, capsys):
    dnd, out = write_dnd(tmp_path / "dnd"), tmp_path / "out"
    weights = random_weights(tmp_path / "raw.safetensors", maps=("a", "b"), channels=channels)
    assert run(dnd, out, "--weights", weights) == 0
    assert "2 of 2" in capsys.readouterr().out
    net = Denoiser.from_pretrained(weights)
    for number in (1, 2):
        crops, is_raw = bundled(out, number)
        assert is_raw and len(crops) == 3
        image = pixels(dnd, "raw", number)
        for k, (top, left, bottom, right) in enumerate(BOXES):
            noisy = image[top - 1 : bottom, left - 1 : right]
            # Red lies at even rows and odd columns of the image.
            y, x = (top - 1) % 2, left % 2
            order = ((y, x), (y, 1 - x), (1 - y, x), (1 - y, 1 - x))
            planes = np.stack([noisy[r::2, c::2] for r, c in order], 2)
            done = np.clip(denoise_raw(planes, 0.01 * number, 0.001, weights=net), 0, 1)
            assert crops[k].dtype == np.float32 and crops[k].shape == noisy.shape
            for i, (r, c) in enumerate(order):
                np.testing.assert_allclose(crops[k][r::2, c::2], done[..., i], atol=1e-6)
            single = loadmat(out / f"{number:04d}_{k + 1:02d}.mat")["Idenoised_crop"]
            assert np.array_equal(single, crops[k])
    assert not list(out.rglob("*.tmp"))


def test_srgb_round_trip_at_each_crop_s_sigma(tmp_path):
    dnd, out = write_dnd(tmp_path / "dnd", 1), tmp_path / "out"
    weights = random_weights(
        tmp_path / "net.safetensors", channels=3, maps=("sigma",), sigma=(0, 75)
    )
    assert run(dnd, out, "--weights", weights, "--srgb") == 0
    crops, is_raw = bundled(out, 1)
    assert not is_raw
    image, net = pixels(dnd, "srgb", 1), Denoiser.from_pretrained(weights)
    for crop, (top, left, bottom, right), sigma in zip(crops, BOXES, (0.02, 0.1, 0.05)):
        done = denoise(image[top - 1 : bottom, left - 1 : right], 255 * sigma, weights=net)
        np.testing.assert_allclose(crop, np.clip(done, 0, 1), atol=1e-6)


def test_only_missing_crops_are_made_again(tmp_path, monkeypatch, capsys):
    dnd, out = write_dnd(tmp_path / "dnd"), tmp_path / "out"
    weights = random_weights(tmp_path / "raw.safetensors", maps=("a", "b"))
    assert run(dnd, out, "--weights", weights) == 0
    wanted = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    (out / "0001_02.mat").unlink()
    (out / "0002_03.mat").write_bytes(wanted["0002_03.mat"][:200])  # cut off
    real, calls = dnd_submission.denoise_mosaic, []
    monkeypatch.setattr(
        dnd_submission, "denoise_mosaic", lambda *given: calls.append(0) or real(*given)
    )
    assert run(dnd, out, "--weights", weights) == 0
    assert len(calls) == 2
    for number in (1, 2):
        for k, crop in enumerate(bundled(out, number)[0], 1):
            single = loadmat(out / f"{number:04d}_{k:02d}.mat")["Idenoised_crop"]
            assert np.array_equal(single, crop)
    assert run(dnd, out, "--weights", "cv2-nlm") == 2
    assert "other weights" in capsys.readouterr().err


def test_bad_images_are_named_and_the_others_done(tmp_path, capsys):
    dnd, out = write_dnd(tmp_path / "dnd", 4), tmp_path / "out"
    (dnd / "images_raw" / "0001.mat").unlink()
    (dnd / "images_raw" / "0002.mat").write_bytes(b"no HDF5")
    with h5py.File(dnd / "images_raw" / "0003.mat", "w") as file:
        file["Inoisy"] = np.zeros((25, 30))  # too small for the boxes
    assert run(dnd, out, "--weights", "cv2-nlm") == 2
    printed = capsys.readouterr()
    assert "1 of 4" in printed.out and printed.err.count("n3match: error:") == 3
    assert all(f"000{i}.mat" in printed.err for i in (1, 2, 3))
    assert [p.name for p in (out / "bundled").iterdir()] == ["0004.mat"]


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"boundingboxes": np.array([[5, 5, 4, 9]]), "sigma_srgb": [0.1]}, "without pixels"),
        ({"boundingboxes": np.zeros((3, 3))}, "boundingboxes of shape"),
        ({"sigma_srgb": [0.1]}, "sigma_srgb of 1 crops"),
        ({"boundingboxes": np.full((3, 4), np.nan)}, "NaN"),
    ],
)
def test_info_that_is_wrong(tmp_path, changed, word, capsys):
    dnd = write_dnd(tmp_path / "dnd", 1, **changed)
    assert run(dnd, tmp_path / "out", "--weights", "cv2-nlm") == 2
    err = capsys.readouterr().err
    assert "info.mat" in err and word in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_references_and_types_lead_to(tmp_path, capsys):
    """A reference to nothing, a link to another file, a type that NumPy hasn't."""
    dnd = write_dnd(tmp_path / "nothing", 1)
    with h5py.File(dnd / "info.mat", "a") as file:
        del file["#refs#/nlf0"]
        del file["info/nlf"]
        file["info/nlf"] = np.array([[h5py.Reference()]], h5py.ref_dtype)
    with pytest.raises(ValueError, match=r"info\.mat: nlf of image 1 is damaged"):
        read_info(dnd)
    dnd = write_dnd(tmp_path / "link", 1)
    with h5py.File(dnd / "info.mat", "a") as file:
        del file["#refs#/camera0/pattern"]
        file["#refs#/camera0/pattern"] = h5py.ExternalLink("other.mat", "/pattern")
    with pytest.raises(ValueError, match=r"info\.mat: .*is a link to another file"):
        read_info(dnd)
    dnd = write_dnd(tmp_path / "type", 1)
    odd = h5py.h5t.IEEE_F64LE.copy()
    odd.set_fields(63, 32, 31, 0, 31)
    odd.set_ebias(2**30)
    with h5py.File(dnd / "images_raw" / "0001.mat", "w") as file:
        h5py.h5d.create(file.id, b"Inoisy", odd, h5py.h5s.create_simple((40, 36)))
    with pytest.raises(ValueError, match=r"0001\.mat: Inoisy: damaged"):
        read_image(dnd, read_info(dnd)[0], srgb=False)


def test_no_dataset_at_all(tmp_path, capsys):
    (tmp_path / "info.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    for folder, word in ((tmp_path / "absent", "no such file"), (tmp_path, "version 7.3")):
        assert run(folder, tmp_path / "out", "--weights", "cv2-nlm") == 2
        assert word in capsys.readouterr().err
    with h5py.File(tmp_path / "info.mat", "w") as file:
        file["other"] = 1
    assert run(tmp_path, tmp_path / "out", "--weights", "cv2-nlm") == 2
    assert "has no info" in capsys.readouterr().err


def test_reader_and_patterns(tmp_path):
    dnd = write_dnd(tmp_path / "dnd", 1)
    (image,) = read_info(dnd)
    assert image.boxes.tolist()[1] == [2, 5, 22, 25] and (image.a, image.b) == (0.01, 0.001)
    assert np.array_equal(read_image(dnd, image, srgb=True), pixels(dnd, "srgb", 1))
    assert mosaic_places(None, 0, 0) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert mosaic_places(PATTERN, 1, 1) == [(1, 0), (1, 1), (0, 0), (0, 1)]
    for pattern in ([[1, 1], [2, 3]], [[1, 3], [2, 2]]):
        with pytest.raises(ValueError, match="pattern"):
            mosaic_places(np.array(pattern), 0, 0)
