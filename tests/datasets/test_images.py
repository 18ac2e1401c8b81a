import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from n3match.datasets.images import read_focal_px, read_image_gray, read_image_rgb

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


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_exif_orientation_is_not_applied(tmp_path, orientation):
    path = save_jpeg(tmp_path / "turned.jpg", orientation=orientation)
    image = read_image_gray(path)
    assert image.shape == (40, 60)
    assert image[:, 0].max() < 20 and image[:, -1].min() > 235


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"no image at all", "not an image")]
)
@pytest.mark.parametrize(
    "read", [read_image_gray, read_image_rgb, lambda path: read_focal_px(path, 4, 3)]
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
    assert read_focal_px(path, 600, 400) == pytest.approx(wanted)
    assert read_focal_px(path, 400, 600) == pytest.approx(wanted)


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
    assert read_focal_px(path, 1000, 750) == pytest.approx(400, rel=1e-6)


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
    assert read_focal_px(save_jpeg(tmp_path / "a.jpg", tags), 60, 40) is None


def test_no_focal_length_in_a_file_without_tags(tmp_path):
    cv2.imwrite(str(tmp_path / "plain.png"), np.zeros((4, 4), np.uint8))
    assert read_focal_px(tmp_path / "plain.png", 4, 4) is None


def test_impossible_sizes(tmp_path):
    path = save_jpeg(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="width, height"):
        read_focal_px(path, 0, 5)
