import io
import os
import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from n3match.datasets.images import ImageFile, read_image_gray, read_image_rgb, turn_in_words

TAG = ExifTags.Base


def save_jpeg(path, tags=None, orientation=None, size=(60, 40)):
    """A photograph, dark on the left and bright on the right, with the given EXIF tags."""
    exif = Image.Exif()
    if orientation:
        exif[TAG.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif).update(tags or {})
    ramp = np.tile(np.linspace(0, 255, size[0]).astype(np.uint8), (size[1], 1))
    Image.fromarray(ramp).save(path, exif=exif)
    return path


def test_grey_values_of_grey_colour_and_16_bit_files(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "colour.png"), np.repeat(grey[..., None], 3, axis=2))
    cv2.imwrite(str(tmp_path / "deep.png"), grey.astype(np.uint16) * 256)
    for name in ("grey.png", "colour.png", "deep.png"):
        image = read_image_gray(tmp_path / name)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, grey)


def test_colours_are_red_green_blue(tmp_path):
    colours = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(colours).save(tmp_path / "colour.png")
    np.testing.assert_array_equal(read_image_rgb(tmp_path / "colour.png"), colours)


def marked_image():
    """(40, 60, 3): other values in each quarter, so that every turn and mirroring shows."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :30], image[:20, 30:], image[20:, :30] = 250, 120, 60
    return image


def save_turned(path, orientation):
    exif = Image.Exif()
    exif[TAG.Orientation] = orientation
    options = {".jpg": {"quality": 95}, ".webp": {"lossless": True}}.get(path.suffix, {})
    Image.fromarray(marked_image()).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_opencv_turns_them(tmp_path, orientation, suffix):
    path = save_turned(tmp_path / f"turned{suffix}", orientation)
    file = ImageFile(path)
    found = file.gray()
    data = np.fromfile(path, np.uint8)  # `imread` of some versions fails for a TIFF on its side
    np.testing.assert_array_equal(found, cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
    np.testing.assert_array_equal(file.rgb(), cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
    np.testing.assert_array_equal(file.unchanged(), file.rgb())
    assert (file.orientation, file.size()) == (orientation, found.shape[::-1])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_pixels_are_those_of_the_file(tmp_path, orientation, suffix):
    file = ImageFile(save_turned(tmp_path / f"turned{suffix}", orientation))
    assert file.size(stored=True) == (60, 40)
    for found in (file.gray(stored=True)[..., None], file.rgb(stored=True)):
        assert found.shape[:2] == (40, 60)
        assert np.abs(found.astype(int) - marked_image()).max() < 25  # what JPEG loses


def test_an_orientation_in_xmp_alone_is_none_as_for_opencv(tmp_path):
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    Image.fromarray(marked_image()).save(tmp_path / "a.jpg", xmp=xmp)
    assert Image.open(tmp_path / "a.jpg").getexif()[TAG.Orientation] == 6
    assert read_image_gray(tmp_path / "a.jpg").shape == (40, 60)


def test_photographs_of_200_megapixels_are_turned_too(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow's, of which it takes twice
    file = ImageFile(save_turned(tmp_path / "a.jpg", 6))
    assert file.gray().shape == (60, 40)
    assert file.size() == (40, 60)


def test_which_frame_a_camera_is_for_is_told_by_its_size(tmp_path):
    on_its_side = ImageFile(save_turned(tmp_path / "side.jpg", 6))
    assert on_its_side.is_stored_frame((60, 40))
    assert not on_its_side.is_stored_frame((40, 60), usually=True)
    upside_down = ImageFile(save_turned(tmp_path / "down.jpg", 3))
    for usually in (False, True):
        assert on_its_side.is_stored_frame(None, usually) == usually
        assert on_its_side.is_stored_frame((7, 7), usually) == usually
        assert upside_down.is_stored_frame((60, 40), usually) == usually


def test_turns_have_words():
    assert turn_in_words(1) == ""
    assert turn_in_words(6) == "turned by 90° clockwise"


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.95, -3])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp", ".ppm"])
def test_truncated_files_are_called_so_and_nothing_else_is_said(tmp_path, capfd, suffix, cut):
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, Image.registered_extensions()[suffix])
    data = whole.getvalue()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[:cut] if cut < 0 else data[: int(len(data) * cut)])
    with pytest.raises(ValueError, match=rf"cut\{suffix}: is truncated"):
        read_image_gray(path)
    assert capfd.readouterr() == ("", "")


def test_a_photograph_with_a_thumbnail_is_truncated_where_its_own_pixels_end_early(tmp_path):
    small = io.BytesIO()
    Image.fromarray(marked_image()).save(small, "JPEG")
    exif = Image.Exif()
    exif[TAG.ImageDescription] = small.getvalue().decode("latin-1")  # with an end of its own
    path = tmp_path / "a.jpg"
    Image.fromarray(marked_image()).save(path, exif=exif)
    assert read_image_gray(path).shape == (40, 60)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.jpg: is truncated"):
        read_image_gray(path)


def test_warnings_of_the_libraries_stay_inside(tmp_path, capfd):
    path = tmp_path / "profile.png"
    Image.fromarray(marked_image()).save(path, icc_profile=b"no profile" * 5)
    cv2.imread(str(path))
    assert "iCCP" in capfd.readouterr().err  # the test's own assumption
    np.testing.assert_array_equal(read_image_rgb(path), marked_image())
    assert capfd.readouterr() == ("", "")


def save_heic(path):
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[TAG.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[TAG.FocalLengthIn35mmFilm] = 43
    pillow_heif.from_pillow(Image.fromarray(marked_image())).save(path, exif=exif.tobytes())
    return path


@pytest.mark.parametrize("stored", [False, True])
def test_heic_is_read_upright_with_its_camera(tmp_path, stored):
    file = ImageFile(save_heic(tmp_path / "IMG_1.HEIC"))
    upright = np.rot90(marked_image(), -1)
    assert np.abs(file.rgb(stored=stored).astype(int) - upright).max() < 25
    assert file.gray(stored=stored).shape == upright.shape[:2]
    assert file.size(stored=stored) == (40, 60)
    assert file.orientation == 1
    assert file.focal_px(400, 600) == pytest.approx(43 / 36 * 600)


def test_heic_without_its_reader_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "IMG_1.HEIC"
    path.write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf")
    with pytest.raises(ValueError, match=r'IMG_1\.HEIC: is HEIC.*pip install "n3match\[heic\]"'):
        read_image_gray(path)


@pytest.mark.parametrize("kind", ["hdr", "pic", "pam"])
def test_kinds_that_opencv_reads_and_pillow_does_not(tmp_path, kind):
    image = marked_image() if kind == "pam" else marked_image().astype(np.float32) / 255
    cv2.imwrite(str(tmp_path / f"a.{kind}"), image)
    file = ImageFile(tmp_path / f"a.{kind}")
    assert file.size() == image.shape[1::-1]
    np.testing.assert_array_equal(file.unchanged(), cv2.imread(str(tmp_path / f"a.{kind}"), -1))


@pytest.mark.parametrize("kind", ["pgm", "bmp"])
def test_images_that_pillow_calls_a_bomb_are_read(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    image = marked_image()[..., 0]
    cv2.imwrite(str(tmp_path / f"a.{kind}"), image)
    assert ImageFile(tmp_path / f"a.{kind}").gray().shape == image.shape


@pytest.mark.parametrize("error", [EOFError, RuntimeError, SyntaxError])
def test_heic_that_its_reader_refuses_is_named(tmp_path, monkeypatch, error):
    path = save_heic(tmp_path / "a.heic")

    def refuse(file):
        raise error("Unexpected end of file")

    monkeypatch.setattr("pillow_heif.open_heif", refuse)
    with pytest.raises(ValueError, match=r"a\.heic: pillow-heif can't read it \(Unexpected end"):
        ImageFile(path).rgb()


def test_truncated_heic_is_called_so(tmp_path):
    path = save_heic(tmp_path / "a.heic")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"a\.heic: is truncated"):
        read_image_gray(path)


@pytest.mark.parametrize("as_path", [False, True])
def test_a_url_is_named_as_it_was_given(as_path):
    url = "https://example.com/photos/a.jpg"
    with pytest.raises(ValueError, match=f"^{url}: is a URL"):
        read_image_gray(Path(url) if as_path else url)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"no image at all", "not an image")]
)
@pytest.mark.parametrize(
    "read", [read_image_gray, read_image_rgb, lambda path: ImageFile(path).size()]
)
def test_unreadable_files_are_refused_by_name(tmp_path, content, message, read):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"photo\.jpg: {message}"):
        read(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg: no such image"):
        read(tmp_path / "absent.jpg")
    with pytest.raises(ValueError, match="is a folder"):
        read(tmp_path)


def test_an_image_larger_than_opencv_reads_is_refused(tmp_path):
    # The header of a bitmap that claims 60 000 x 60 000 pixels.
    header = b"BM" + np.array([54, 0, 54, 40, 60000, 60000], dtype="<u4").tobytes()
    header += np.array([1, 8], dtype="<u2").tobytes() + bytes(24)
    (tmp_path / "huge.bmp").write_bytes(header)
    with pytest.raises(ValueError, match=r"huge\.bmp: "):
        read_image_gray(tmp_path / "huge.bmp")


@pytest.mark.parametrize("orientation", [1, 6])
def test_focal_length_from_the_35_mm_equivalent(tmp_path, orientation):
    path = save_jpeg(tmp_path / "a.jpg", {TAG.FocalLengthIn35mmFilm: 43}, orientation)
    # 43.27 mm is the diagonal of the 36 x 24 mm frame; 60 x 40 pixels have the same shape.
    wanted = 43 / 36 * 600
    assert ImageFile(path).focal_px(600, 400) == pytest.approx(wanted)
    assert ImageFile(path).focal_px(400, 600) == pytest.approx(wanted)


@pytest.mark.parametrize(("unit", "per_unit"), [(2, 2540.0), (3, 1000.0), (4, 100.0)])
def test_focal_length_from_the_focal_plane(tmp_path, unit, per_unit):
    tags = {
        TAG.FocalLength: 8.0,
        TAG.FocalPlaneXResolution: per_unit,
        TAG.FocalPlaneResolutionUnit: unit,
        TAG.ExifImageWidth: 2000,
        TAG.ExifImageHeight: 1500,
    }
    path = save_jpeg(tmp_path / "a.jpg", tags)
    # 100 pixels a millimetre, then resized to half.
    assert ImageFile(path).focal_px(1000, 750) == pytest.approx(400, rel=1e-6)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {TAG.FocalLengthIn35mmFilm: 0},
        {TAG.FocalLength: 8.0},
        {TAG.FocalLength: 8.0, TAG.FocalPlaneXResolution: 100.0},
        {
            TAG.FocalLength: 8.0,
            TAG.FocalPlaneXResolution: 0.0,
            TAG.ExifImageWidth: 20,
            TAG.ExifImageHeight: 20,
        },
        {
            TAG.FocalLength: 8.0,
            TAG.FocalPlaneXResolution: 100.0,
            TAG.FocalPlaneResolutionUnit: 9,
            TAG.ExifImageWidth: 20,
            TAG.ExifImageHeight: 20,
        },
    ],
)
def test_no_focal_length_where_the_tags_do_not_tell(tmp_path, tags):
    assert ImageFile(save_jpeg(tmp_path / "a.jpg", tags)).focal_px(60, 40) is None


def test_no_focal_length_in_a_file_without_tags(tmp_path):
    cv2.imwrite(str(tmp_path / "plain.png"), np.zeros((4, 4), np.uint8))
    assert ImageFile(tmp_path / "plain.png").focal_px(4, 4) is None


def test_impossible_sizes(tmp_path):
    path = save_jpeg(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="width, height"):
        ImageFile(path).focal_px(0, 5)


def test_image_that_would_unpack_to_gigabytes_is_refused_by_its_header(tmp_path):
    """A few kilobytes of zeros: 30 000 × 30 000 pixels, 2.7 GB in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        length, checksum = (struct.pack(">I", n) for n in (len(data), zlib.crc32(kind + data)))
        return length + kind + data + checksum

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9)))
    path = tmp_path / "bomb.png"
    path.write_bytes(data + chunk(b"IEND", b""))
    file = ImageFile(path)
    assert file.size() == (30000, 30000)
    for read in (file.gray, file.rgb, file.unchanged):
        with pytest.raises(ValueError, match=r"bomb\.png: 30000 x 30000 pixels, wanted at most"):
            read()


def test_photograph_is_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises(ValueError, match="is a pipe or a device"):
            ImageFile(tmp_path / name)


def test_float_tiff_that_pillow_does_not_know_is_still_read(tmp_path):
    pixels = np.random.default_rng(0).random((12, 16, 3)).astype(np.float32)
    cv2.imwrite(str(tmp_path / "a.tif"), pixels)
    assert (ImageFile(tmp_path / "a.tif").unchanged() == pixels[..., ::-1]).all()
