"""Photographs that EXIF says to turn: everything is in the pixels that OpenCV reads."""

import json

import cv2
import h5py
import numpy as np
import pytest
from demo_photos import PHOTO0, PHOTO1, intrinsics, run_command
from PIL import ExifTags, Image

import n3match

# Pixels as stored -> how EXIF's tag turns them.
TURNS = {3: lambda image: np.rot90(image, 2), 6: lambda image: np.rot90(image, -1)}
BACK = {3: TURNS[3], 6: np.rot90}


def save(path, image, orientation=1):
    """Without loss, stored so that the tag turns it into `image`."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = image if orientation == 1 else BACK[orientation](image)
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The bundled photographs at half size, upright; and image 0 as phones store it."""
    folder = tmp_path_factory.mktemp("photos")
    for name, path in (("a", PHOTO0), ("b", PHOTO1)):
        image = cv2.resize(cv2.imread(str(path), 0), (384, 512), interpolation=cv2.INTER_AREA)
        save(folder / f"{name}.png", image)
        if name == "a":
            for orientation in TURNS:
                save(folder / f"a{orientation}.png", image, orientation)
            save(folder / "lying.png", np.rot90(image))  # stored as a6, without a tag
    return folder


CAMERAS = ["--intrinsics0", intrinsics(0.5), "--intrinsics1", intrinsics(0.5)]


def pose(photos, first, *options, cameras=CAMERAS):
    done = run_command("pose", first, "b.png", *cameras, "--json", *options, cwd=photos)
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize("orientation", [3, 6])
def test_the_pose_is_that_of_the_upright_photograph(photos, orientation):
    upright, turned = pose(photos, "a.png"), pose(photos, f"a{orientation}.png")
    assert upright["status"] == "ok"
    for key in ("R", "t", "E", "matches"):
        assert turned[key] == upright[key]
    image = turned["images"][0]
    assert (image["width"], image["height"]) == (384, 512)
    assert image["K"] == upright["images"][0]["K"]
    assert (image["orientation"], image["turned"]) == (orientation, True)
    for other in (upright["images"][0], turned["images"][1]):
        assert (other["orientation"], other["turned"]) == (1, False)


def test_stored_pixels_are_taken_where_they_are_asked_for(photos):
    lying = pose(photos, "lying.png", cameras=())
    stored = pose(photos, "a6.png", "--stored-pixels", cameras=())
    for key in ("R", "t", "matches"):
        assert stored[key] == lying[key]
    image = stored["images"][0]
    assert (image["width"], image["height"]) == (512, 384)
    assert (image["orientation"], image["turned"]) == (6, False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "a6.png: 384 × 512 (turned by 90° clockwise, as its EXIF data says)"),
        (
            ("--stored-pixels",),
            "a6.png: 512 × 384 (as stored, not turned by 90° clockwise as its EXIF data says)",
        ),
    ],
)
def test_both_commands_say_what_was_done(photos, tmp_path, options, said):
    few = ["--max-keypoints", "300", *options]
    for command in (["pose"], ["match", "-o", tmp_path / "m.csv"]):
        done = run_command(*command, "a6.png", "b.png", *few, cwd=photos)
        assert said in done.stdout
        assert "EXIF data says" not in done.stdout.splitlines()[1]


def test_matches_are_in_turned_pixels_and_the_file_says_so(photos, tmp_path):
    found = []
    for name in ("a.png", "a6.png"):
        out = tmp_path / f"{name}.h5"
        assert run_command("match", name, "b.png", "-o", out, cwd=photos).returncode == 0
        with h5py.File(out) as file:
            found.append((file["points0"][:], file.attrs["K0"][:]))
            attributes = dict(file.attrs)
    for upright, turned in zip(*found):
        np.testing.assert_array_equal(turned, upright)
    assert (attributes["orientation0"], bool(attributes["turned0"])) == (6, True)
    assert (attributes["orientation1"], bool(attributes["turned1"])) == (1, False)


def test_in_python_too(photos):
    options = {"max_keypoints": 300, "filter": None}
    upright = n3match.match_images(photos / "a.png", photos / "b.png", **options)
    turned = n3match.match_images(photos / "a6.png", photos / "b.png", **options)
    np.testing.assert_array_equal(turned.points0, upright.points0)
    np.testing.assert_array_equal(turned.photographs[0].rgb(), upright.photographs[0].rgb())
    stored = n3match.match_images(
        photos / "a6.png", photos / "b.png", stored_pixels=True, **options
    )
    assert stored.photographs[0].size == (512, 384)
    assert stored.photographs[0].rgb().shape == (384, 512, 3)
