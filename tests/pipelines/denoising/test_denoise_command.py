"""`n3match denoise`: files and folders, good and bad."""

import os
import re
import resource
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from n3match.datasets.denoising.image_files import encoded, read_image
from n3match.denoising import Denoiser
from n3match.nn import PRESETS, N3Net
from n3match.pipelines.cli import main
from n3match.pipelines.common import progress
from n3match.pipelines.denoising import denoise_files
from n3match.weights import save_weights

SIZES = {
    "features": 4, "block_channels": 2, "neighbours": 2, "window": 4, "embedding_features": 4,
    "depth": 3,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    config = replace(PRESETS["n3net"], **SIZES, maps=("sigma",), sigma=(0, 75))
    save_weights(path, N3Net(config).eval())
    return path


def noise(*shape, dtype=np.uint8):
    values = np.random.default_rng(0).random(shape)
    return values.astype(dtype) if dtype == np.float32 else (
        values * np.iinfo(dtype).max
    ).astype(dtype)


def run(*arguments):
    return main(["denoise", *map(str, arguments)])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_one_file(tmp_path, weights, suffix, capsys):
    cv2.imwrite(str(tmp_path / "in.png"), noise(20, 25, 3))
    out = tmp_path / f"out{suffix}"
    assert run(tmp_path / "in.png", out, "--weights", weights, "--sigma", 25) == 0
    assert read_image(out).shape == (20, 25, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.png", out.name]
    assert "1 of 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shape", "dtype", "name"),
    [((30, 31), np.uint8, "a.png"), ((30, 31, 3), np.uint16, "a.png"),
     ((30, 31, 4), np.uint8, "a.png"), ((30, 31), np.float32, "a.tif"),
     ((30, 31, 4), np.uint16, "a.png"), ((1, 1), np.uint8, "a.png"), ((9, 90), np.uint16, "a.tif")],
)
def test_depth_and_channels_stay(tmp_path, weights, shape, dtype, name):
    image = noise(*shape, dtype=dtype)
    (tmp_path / name).write_bytes(encoded(image, name))
    (tmp_path / "out").mkdir()
    assert run(tmp_path / name, tmp_path / "out" / name, "--weights", weights, "--sigma", 20) == 0
    found = read_image(tmp_path / "out" / name)
    assert found.shape == shape and found.dtype == dtype
    assert not np.array_equal(found, image)
    if shape[-1] == 4:
        assert np.array_equal(found[..., 3], image[..., 3])


def test_folder_with_bad_files_is_finished_and_told_of(tmp_path, weights, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    cv2.imwrite(str(source / "good.png"), noise(20, 20))
    Image.fromarray(noise(20, 20)).convert("P").save(source / "palette.png")
    Image.fromarray(noise(20, 20, 3)).convert("CMYK").save(source / "cmyk.jpg")
    (source / "empty.png").write_bytes(b"")
    (source / "text.jpg").write_bytes(b"no image at all")
    (source / "cut.png").write_bytes((source / "good.png").read_bytes()[:60])
    (source / "nan.tif").write_bytes(encoded(np.full((9, 9), np.nan, np.float32), "nan.tif"))
    cv2.imwrite(str(source / "one.png"), noise(1, 1))  # too small to estimate from
    (source / "notes.txt").write_text("not an image by its name")
    assert run(source, out, "--weights", weights) == 2
    printed = capsys.readouterr()
    assert sorted(p.name for p in out.iterdir()) == ["good.png", "palette.png"]
    assert "2 of 8" in printed.out
    lines = [line for line in printed.err.splitlines() if line.startswith("n3match: error:")]
    assert len(lines) == 6
    for name in ("cmyk.jpg", "empty.png", "text.jpg", "cut.png", "nan.tif", "one.png"):
        assert sum(name in line for line in lines) == 1


def test_pictures_before_and_after(tmp_path, weights):
    source = tmp_path / "in"
    source.mkdir()
    for name, image in (("a.png", noise(300, 1200, 3)), ("b.tif", noise(5, 7, dtype=np.uint16))):
        (source / name).write_bytes(encoded(image, name))
    common = ("--weights", weights, "--sigma", 25, "--picture", tmp_path / "pictures")
    assert run(source, tmp_path / "out", *common) == 0
    pictures = {p.name: read_image(p) for p in (tmp_path / "pictures").iterdir()}
    assert set(pictures) == {"a.png", "b.png"}
    assert pictures["a.png"].shape[1] == 900 + 8 + 900
    # Left and right differ, above and below.
    left, right = pictures["a.png"][:, :900], pictures["a.png"][:, 908:]
    assert (left[:225] != right[:225]).any() and (left[240:] != right[240:]).any()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["in.png", "out.xyz"], "out.xyz"),
        (["in.png", "nowhere/out.png"], "nowhere"),
        (["absent.png", "out.png"], "absent.png"),
        (["in.png", "out.png", "--sigma", "300"], "sigma"),
        (["in.png", "out.png", "--sigma", "nan"], "sigma"),
        (["in.png", "out.png", "--sigma", "120"], "0 … 75"),
        (["in.png", "out.png", "--memory", "0"], "memory"),
        (["in.png", "out.png", "--memory", "0.0001"], "; give --memory 1"),
        (["in.png", "out.png", "--picture", "p.jpg"], "p.jpg"),
        (["deep.png", "out.jpg"], "8 bits"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(
    tmp_path, weights, monkeypatch, capsys, arguments, word
):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("in.png", noise(200, 200))
    cv2.imwrite("deep.png", noise(20, 20, dtype=np.uint16))
    before = sorted(os.listdir())
    assert run(*arguments, "--weights", weights) == 2
    err = capsys.readouterr().err
    assert word in err and err.count("\n") == 1
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("name", "target", "word"),
    [
        ("alpha.png", "out.jpg", "no alpha"),
        ("alpha.png", "out.pgm", "no alpha"),
        ("colour.png", "out.pgm", "no colours"),
        ("grey.png", "out.ppm", "is grey"),
        ("cmyk.jpg", "out.png", "CMYK"),
        ("grey.png", "folder.png", "is a folder"),
        ("folder", "out.png", "looks like a file"),
    ],
)
def test_what_cannot_be_written_is_found_before_any_work(
    tmp_path, weights, monkeypatch, capsys, name, target, word
):
    monkeypatch.chdir(tmp_path)
    for file, shape in (("grey", (20, 20)), ("colour", (20, 20, 3)), ("alpha", (20, 20, 4))):
        cv2.imwrite(f"{file}.png", noise(*shape))
    Image.fromarray(noise(20, 20, 3)).convert("CMYK").save("cmyk.jpg")
    os.mkdir("folder.png")
    os.mkdir("folder")
    cv2.imwrite("folder/a.png", noise(20, 20))
    monkeypatch.setattr(denoise_files, "denoise", None)  # the work
    before = sorted(os.listdir())
    assert run(name, target, "--weights", weights) == 2
    err = capsys.readouterr().err
    assert word in err and (target in err or name in err)
    assert err.count("\n") == 1 and sorted(os.listdir()) == before


def test_of_a_folder_too(tmp_path, weights, monkeypatch, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (out / "b.png").mkdir(parents=True)
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(source / name), noise(20, 20))
    Image.fromarray(noise(20, 20, 3)).convert("CMYK").save(source / "d.jpg")
    order = []
    work = denoise_files.denoise

    def told(*arguments, **options):
        order.append(capsys.readouterr().err)
        return work(*arguments, **options)

    monkeypatch.setattr(denoise_files, "denoise", told)
    assert run(source, out, "--weights", weights, "--sigma", 25) == 2
    first, second = order
    assert f"{out / 'b.png'}: is a folder" in first and "d.jpg: is a CMYK image" in first
    assert second == ""
    assert capsys.readouterr().err == ""


def test_memory_too_small_for_a_later_stage_is_found_before_the_first(tmp_path, weights):
    net = Denoiser.from_pretrained(weights)
    x = torch.rand(1, 2, 200, 200)
    shares = []
    for memory_limit in range(200_000, 6_000_000, 200_000):
        try:
            net.restore(x, memory_limit=memory_limit, progress=shares.append)
        except ValueError as error:
            assert "memory_limit" in str(error) and not shares
        else:
            break
    assert shares and memory_limit > 400_000


def test_a_heic_photograph_of_a_folder_becomes_a_png(tmp_path, weights, capsys):
    pillow_heif = pytest.importorskip("pillow_heif")
    source = tmp_path / "in"
    source.mkdir()
    pillow_heif.from_pillow(Image.fromarray(noise(20, 24, 3))).save(source / "IMG_1.HEIC")
    assert run(source, tmp_path / "out", "--weights", weights, "--sigma", 25) == 0
    assert read_image(tmp_path / "out" / "IMG_1.png").shape == (20, 24, 3)
    cv2.imwrite(str(source / "IMG_1.png"), noise(20, 20))
    assert run(source, tmp_path / "out", "--weights", weights, "--sigma", 25) == 2
    assert "would be written for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "shape", "said"),
    [
        ((), (30, 20), "turned by 90° clockwise, as EXIF says; the result has no EXIF data"),
        (("--stored-pixels",), (20, 30), "not turned by 90° clockwise as EXIF says; the result"),
    ],
)
def test_a_phones_photograph_comes_out_upright(tmp_path, weights, capsys, options, shape, said):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(noise(20, 30)).save(tmp_path / "in.jpg", exif=exif)
    out = tmp_path / "out.png"
    assert run(tmp_path / "in.jpg", out, "--weights", weights, "--sigma", 25, *options) == 0
    assert read_image(out).shape == shape
    assert Image.open(out).getexif().get(0x112) is None
    assert f"in.jpg: {said}" in capsys.readouterr().out


def test_how_long_and_what_would_be_faster_is_said_after_the_first_tile(
    tmp_path, weights, monkeypatch, capsys
):
    cv2.imwrite(str(tmp_path / "in.png"), noise(230, 310))
    monkeypatch.setattr(denoise_files, "SLOW_S", 0.0)
    monkeypatch.setattr(progress, "FIRST_LINE_S", 0.0)
    common = (tmp_path / "in.png", tmp_path / "out.png", "--weights", weights, "--sigma", 25)
    assert run(*common, "--memory", "0.005") == 0
    lines = capsys.readouterr().err.splitlines()
    reading, first_tile, note, *_ = lines
    assert reading.startswith("n3match: reading, 1/1 images")
    assert re.match(r"n3match: in\.png, 0\.0\d/0\.07 megapixels \(\d+%\), .* left", first_tile)
    assert re.match(r"n3match: note: this will take about \d+:\d\d; faster: ", note)
    assert re.search(r"--memory 1 \(\d+% less work: tiles overlap less\)", note)
    assert run(*common) == 0
    assert "--memory" not in capsys.readouterr().err
    assert run(*common, "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_the_fast_network_is_suggested_in_place_of_the_default_one(
    tmp_path, weights, monkeypatch, capsys
):
    monkeypatch.setattr(denoise_files, "SLOW_S", 0.0)
    monkeypatch.setattr(progress, "FIRST_LINE_S", 0.0)
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "grey.png"), noise(40, 50))
    cv2.imwrite(str(images / "colour.png"), noise(40, 50, 3))

    def suggested(source, *options):
        target = tmp_path / ("denoised" if source.is_dir() else "out.png")
        assert run(source, target, "--sigma", 25, "--memory", "0.01", *options) == 0
        said = capsys.readouterr().err
        assert "faster: " in said
        return "--weights n3net-fast (" in said

    assert suggested(images / "grey.png")
    assert not suggested(images / "grey.png", "--weights", weights)
    assert not suggested(images)  # with one in colour


def test_half_precision_is_near_and_on_a_cpu_bfloat16(tmp_path, weights):
    cv2.imwrite(str(tmp_path / "in.png"), noise(64, 64))
    found = []
    for options in ((), ("--half",), ("--device", "cpu")):
        out = tmp_path / "out.png"
        assert run(tmp_path / "in.png", out, "--weights", weights, "--sigma", 25, *options) == 0
        found.append(read_image(out).astype(int))
    full, half, again = found
    assert np.array_equal(full, again)
    assert 0 < np.abs(full - half).max() <= 4


def test_a_device_that_is_not_there(tmp_path, weights, capsys):
    cv2.imwrite(str(tmp_path / "in.png"), noise(20, 20))
    arguments = (tmp_path / "in.png", tmp_path / "out.png", "--weights", weights)
    assert run(*arguments, "--device", "abacus") == 2
    assert "--device: 'abacus' can't be used" in capsys.readouterr().err


def test_without_weights_the_error_says_so(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "in.png"), noise(20, 20))
    assert run(tmp_path / "in.png", tmp_path / "out.png", "--weights", "absent.safetensors") == 2
    assert "absent.safetensors" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path, weights, capsys):
    cv2.imwrite(str(tmp_path / "in.png"), noise(20, 20))
    (tmp_path / "out").mkdir(mode=0o555)
    assert run(tmp_path / "in.png", tmp_path / "out" / "a.png", "--weights", weights) == 2
    assert "not writable" in capsys.readouterr().err


def test_tiles_give_the_same_file(tmp_path, weights):
    cv2.imwrite(str(tmp_path / "in.png"), noise(230, 310, dtype=np.uint16))
    found = []
    for memory in ("1", "0.02"):
        out = tmp_path / f"{memory}.png"
        assert run(
            tmp_path / "in.png", out, "--weights", weights, "--sigma", 25, "--memory", memory
        ) == 0
        found.append(read_image(out).astype(int))
    assert np.abs(found[0] - found[1]).max() <= 1


def test_output_that_does_not_fit_leaves_no_half_of_a_file(tmp_path, weights, capsys):
    """A limit to the size of files stands in for a full disk: writing fails on the way."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    cv2.imwrite(str(source / "large.png"), noise(80, 80))
    cv2.imwrite(str(source / "small.png"), noise(10, 10))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        status = run(source, out, "--weights", weights, "--sigma", 25)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    printed = capsys.readouterr()
    assert status == 2 and "1 of 2" in printed.out
    assert str(out / "large.png") in printed.err and printed.err.count("n3match: error") == 1
    assert [p.name for p in out.iterdir()] == ["small.png"]


def test_output_folder_that_is_read_only(tmp_path, weights, monkeypatch, capsys):
    cv2.imwrite(str(tmp_path / "in.png"), noise(20, 20))
    (tmp_path / "out").mkdir()
    # Who runs the tests may be root, whom modes don't stop.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert run(tmp_path / "in.png", tmp_path / "out" / "a.png", "--weights", weights) == 2
    assert "not writable" in capsys.readouterr().err
    (tmp_path / "source").mkdir()
    (tmp_path / "in.png").rename(tmp_path / "source" / "in.png")
    assert run(tmp_path / "source", tmp_path / "out", "--weights", weights) == 2
    assert not list((tmp_path / "out").iterdir())
