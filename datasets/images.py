"""Read photographs, and guess the camera that took them: the one place where image files are read.

A phone often stores a photograph lying on its side, with an EXIF tag that says how to turn it. As
`cv2.imread` does, the pixels are turned so that it stands upright; `stored=True` leaves them as
they are in the file. A camera matrix and keypoints belong to one of these two frames: COLMAP's
models and hloc's files are of stored pixels, what was measured on images that OpenCV read is of
turned ones.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from n3match.files import given

# Diagonal of a 36 mm x 24 mm frame: CIPA DCG-001 defines the 35 mm equivalent by the diagonal.
_DIAGONAL_35MM = math.hypot(36.0, 24.0)
# EXIF FocalPlaneResolutionUnit -> millimetres
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0}
# EXIF orientation -> (rows and columns exchanged, then rows reversed, then columns reversed), and
# what that is called.
_TURNS = {
    1: (False, False, False, ""),
    2: (False, False, True, "mirrored"),
    3: (False, True, True, "turned by 180°"),
    4: (False, True, False, "turned by 180° and mirrored"),
    5: (True, False, False, "turned by 90° clockwise and mirrored"),
    6: (True, False, True, "turned by 90° clockwise"),
    7: (True, True, True, "turned by 90° anticlockwise and mirrored"),
    8: (True, True, False, "turned by 90° anticlockwise"),
}
# Of the box "ftyp" that a HEIF file begins with: photographs in HEVC, alone or in a sequence.
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"))
HEIC_SUFFIXES = (".heic", ".heif")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What Pillow raises of damaged files; a size that it refuses, even for their tags alone.
_BY_PILLOW = (
    OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, AttributeError,
    OverflowError, ZeroDivisionError, EOFError, RuntimeError, struct.error, zlib.error,
    Image.DecompressionBombError,
)
_BY_HEIF = (OSError, RuntimeError, ValueError, SyntaxError, EOFError)
# Phones take 200 megapixels. In colour so many are a gigabyte, and a few kilobytes of a file can
# unpack to that.
_MOST_PIXELS, _LONGEST_SIDE = 1 << 28, 1 << 20
_LARGE_KINDS: dict[bytes, Any] = {
    b"\xff\xd8": JpegImageFile, b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"II*\0": TiffImageFile, b"MM\0*": TiffImageFile, b"BM": BmpImageFile,
    b"\0\0\0\x0cjP  ": Jpeg2KImageFile, b"\xffO\xffQ": Jpeg2KImageFile,
    **{b"P%d" % n: PpmImageFile for n in range(1, 7)},
}
# Headers in words of the kinds that OpenCV reads and Pillow doesn't: Radiance's and PAM's.
_RADIANCE = re.compile(rb"\A#\?R(?:GBE|ADIANCE)\b.*?\n[-+]Y (\d{1,9}) [-+]X (\d{1,9})\n", re.S)
_PAM = re.compile(rb"\AP7\n(?=.*?WIDTH (\d{1,9})\n)(?=.*?HEIGHT (\d{1,9})\n).*?ENDHDR\n", re.S)
_HEADER = 1 << 16  # bytes
_TRUNCATED = "is truncated: the file ends before its image does"


class ImageFile:
    """A photograph's file, read once: its pixels, how they lie, what the camera wrote.

    Args:
        path: of the file, which is read at once.

    Attributes:
        path: of the file.

    Raises:
        FileNotFoundError: no such file. ValueError: a folder, an empty file, a URL.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._data = _read_bytes(path)

    @property
    def orientation(self) -> int:
        """The EXIF tag, 1 … 8; 1 (as stored) where there is none.

        HEIC is 1 always: its decoder turns the pixels.
        """
        return self._header.orientation

    def size(self, *, stored: bool = False) -> tuple[int, int]:
        """(width, height), from the header alone.

        Args:
            stored: in pixels as they are stored, not turned by the EXIF orientation.

        Raises:
            ValueError: neither Pillow nor, of HEIC, pillow-heif can open it.
        """
        size = self._header.size
        if size is None:
            raise ValueError(f"{self.path}: {self._unreadable('Pillow')}")
        return size if stored or not _TURNS[self.orientation][0] else size[::-1]

    def is_stored_frame(self, size: tuple[int, int] | None, usually: bool = False) -> bool:
        """Whether a camera for images of this size is one for the stored pixels.

        Args:
            size: (width, height), or None.
            usually: the answer where the size doesn't tell.
        """
        if size is None or self.orientation == 1:
            return usually
        turned, stored = (self.size(stored=answer) == tuple(size) for answer in (False, True))
        return usually if turned == stored else stored

    def gray(self, *, stored: bool = False) -> np.ndarray:
        """(H, W) uint8 grey.

        Args:
            stored: in pixels as they are stored, not turned by the EXIF orientation.

        Raises:
            ValueError: not an image, truncated, of more than 2^28 pixels, or HEIC without
                pillow-heif.
        """
        if self._is_heic:
            return cv2.cvtColor(self._heic_pixels(), cv2.COLOR_RGB2GRAY)
        return self._decoded(cv2.IMREAD_GRAYSCALE, stored)

    def rgb(self, *, stored: bool = False) -> np.ndarray:
        """(H, W, 3) uint8 red, green, blue; otherwise as `gray`.

        Args:
            stored: in pixels as they are stored, not turned by the EXIF orientation.
        """
        if self._is_heic:
            return self._heic_pixels()
        return cv2.cvtColor(self._decoded(cv2.IMREAD_COLOR, stored), cv2.COLOR_BGR2RGB)

    def unchanged(self, *, stored: bool = False) -> np.ndarray:
        """Any channels and depth: (H, W), (H, W, 3) red, green, blue, (H, W, 4) with alpha.

        Args:
            stored: in pixels as they are stored, not turned by the EXIF orientation.
        """
        if self._is_heic:
            return self._heic_pixels()
        image = self._decoded(cv2.IMREAD_UNCHANGED, stored)
        codes = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
        channels = image.shape[2] if image.ndim == 3 else 1
        return cv2.cvtColor(image, codes[channels]) if channels in codes else image

    @property
    def mode(self) -> str:
        """Pillow's word for the kind of image ("RGB", "CMYK", …); "" where it knows none."""
        return self._header.mode

    def focal_px(self, width: int, height: int) -> float | None:
        """Focal length in pixels from the EXIF data, or None where that does not tell.

        Uses the 35 mm equivalent (by the frame's diagonal), else the focal length with the focal
        plane's resolution. Right for a photograph that was resized, not for one that was cropped.

        Args:
            width, height: of the image that the keypoints are from, pixels; turned or not.
        """
        if width < 1 or height < 1:
            raise ValueError(f"width, height: found {width} x {height}, wanted at least 1 x 1")
        tags = self._header.exif.get_ifd(ExifTags.IFD.Exif)
        equivalent = _positive(tags.get(ExifTags.Base.FocalLengthIn35mmFilm))
        if equivalent is not None:
            return equivalent / _DIAGONAL_35MM * math.hypot(width, height)
        focal = _positive(tags.get(ExifTags.Base.FocalLength))
        resolution = _positive(tags.get(ExifTags.Base.FocalPlaneXResolution))
        unit = _UNIT_MM.get(tags.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))
        width_taken = _positive(tags.get(ExifTags.Base.ExifImageWidth))
        height_taken = _positive(tags.get(ExifTags.Base.ExifImageHeight))
        if focal is None or resolution is None or unit is None:
            return None
        if width_taken is None or height_taken is None:
            return None
        return focal * resolution / unit * max(width, height) / max(width_taken, height_taken)

    @cached_property
    def _header(self) -> _Header:
        if self._is_heic:
            heif = self._heic()
            return _Header(heif.size, heif.mode, 1, _exif(heif.info.get("exif")))
        try:
            with warnings.catch_warnings(), _opened(self._data) as image:
                warnings.simplefilter("ignore")  # of odd tags and large sizes
                if isinstance(image, TiffImageFile):
                    # Newer versions of Pillow have turned `image.size` already.
                    tags = image.tag_v2
                    size = tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]
                    exif = image.getexif()
                else:
                    # Not from `getexif`, which also looks into XMP: OpenCV doesn't.
                    size, exif = image.size, _exif(image.info.get("exif"))
                orientation = exif.get(ExifTags.Base.Orientation, 1)
                mode = image.mode
        except _BY_PILLOW:
            found = _size_in_tiff(self._data) or _size_in_words(self._data[:_HEADER])
            return _Header(found, "", 1, Image.Exif())
        return _Header(size, mode, orientation if orientation in _TURNS else 1, exif)

    def _decoded(self, mode: int, stored: bool) -> np.ndarray:
        """The pixels in one of OpenCV's modes, its order of channels."""
        if _ends_early(self._data):
            raise ValueError(f"{self.path}: {_TRUNCATED}")
        self._check_unpacked()
        data = np.frombuffer(self._data, dtype=np.uint8)
        try:
            with _HUSHED:
                image = cv2.imdecode(data, mode | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error as error:
            raise ValueError(f"{self.path}: OpenCV refuses this image ({error.err})") from error
        if image is None:
            raise ValueError(f"{self.path}: {self._unreadable('OpenCV')}")
        # OpenCV turns TIFF whatever it is asked, and the other formats not where it is asked so.
        orientation, is_turned = self.orientation, self._data[:4] in _TIFF
        if is_turned != stored or orientation == 1:
            return image
        return _turned(image, {6: 8, 8: 6}.get(orientation, orientation) if stored else orientation)

    def _check_unpacked(self) -> None:
        """Raises ValueError where the header, if there is one, tells of more than memory is for."""
        size = self._header.size
        if size is None:
            raise ValueError(f"{self.path}: {self._unreadable('OpenCV')}")
        width, height = size
        if not (0 < width <= _LONGEST_SIDE and 0 < height <= _LONGEST_SIDE):
            raise ValueError(f"{self.path}: {width} x {height} pixels, which is no image")
        if width * height > _MOST_PIXELS:
            raise ValueError(
                f"{self.path}: {width} x {height} pixels, wanted at most {_MOST_PIXELS}"
            )

    def _unreadable(self, reader: str) -> str:
        """What is wrong with a file that `reader` can't make an image of."""
        if _ends_early(self._data) or _pillow_finds_it_cut(self._data):
            return _TRUNCATED
        return f"not an image that {reader} can read"

    @property
    def _is_heic(self) -> bool:
        length = min(int.from_bytes(self._data[:4], "big"), 256)
        brands = [self._data[place : place + 4] for place in (8, *range(16, length, 4))]
        return self._data[4:8] == b"ftyp" and not _HEIC_BRANDS.isdisjoint(brands)

    def _heic(self) -> Any:
        """pillow-heif's image."""
        if _ends_early(self._data):
            raise ValueError(f"{self.path}: {_TRUNCATED}")
        try:
            import pillow_heif
        except ImportError as error:
            raise ValueError(
                f"{self.path}: is HEIC, which is read with pillow-heif: "
                'pip install "n3match[heic]", or save the photograph as JPEG'
            ) from error
        try:
            return pillow_heif.open_heif(io.BytesIO(self._data))
        except _BY_HEIF as error:
            raise ValueError(f"{self.path}: pillow-heif can't read it ({error})") from error

    def _heic_pixels(self) -> np.ndarray:
        self._check_unpacked()
        try:
            return np.array(self._heic().to_pillow().convert("RGB"))
        except _BY_HEIF as error:
            raise ValueError(f"{self.path}: pillow-heif can't read it ({error})") from error


def read_image_gray(path: str | os.PathLike, *, stored: bool = False) -> np.ndarray:
    """(H, W) uint8 grey image, turned by EXIF as OpenCV does.

    Args:
        path: of the file.
        stored: not turned.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, an empty file, a URL, not an image, truncated, HEIC without
            pillow-heif, or of more than 2^28 pixels.
    """
    return ImageFile(path).gray(stored=stored)


def read_image_rgb(path: str | os.PathLike, *, stored: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 red, green, blue; otherwise as `read_image_gray`.

    Args:
        path: of the file.
        stored: not turned.
    """
    return ImageFile(path).rgb(stored=stored)


def turn_in_words(orientation: int) -> str:
    """What an EXIF orientation does to the stored pixels: "turned by 90° clockwise"; "" for 1.

    Args:
        orientation: the tag, 1 … 8.
    """
    return _TURNS[orientation][3]


@dataclass(frozen=True, eq=False)
class _Header:
    """`size` is (width, height) of the stored pixels, None where nothing can open the file."""

    size: tuple[int, int] | None
    mode: str
    orientation: int
    exif: Image.Exif


def _opened(data: bytes) -> Image.Image:
    """Pillow's image, of which nothing is decoded yet."""
    # Phones take 200 megapixels, which `open` refuses.
    for start, kind in _LARGE_KINDS.items():
        if data.startswith(start):
            return kind(io.BytesIO(data))
    return Image.open(io.BytesIO(data))


def _exif(data: bytes | None) -> Image.Exif:
    """The tags; none where they can't be read."""
    exif = Image.Exif()
    try:
        exif.load(data or b"")
        exif.get_ifd(ExifTags.IFD.Exif)
    except _BY_PILLOW:
        return Image.Exif()
    return exif


def _size_in_tiff(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a TIFF whose kind of pixels Pillow doesn't know; None where it is none."""
    try:
        tags = ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        return int(tags[ExifTags.Base.ImageWidth]), int(tags[ExifTags.Base.ImageLength])
    except (*_BY_PILLOW, TypeError):
        return None


def _size_in_words(header: bytes) -> tuple[int, int] | None:
    """(width, height) of a Radiance or PAM image; None where it is none."""
    if found := _RADIANCE.match(header):
        return int(found[2]), int(found[1])
    if found := _PAM.match(header):
        return int(found[1]), int(found[2])
    return None


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    exchanged, rows, columns, _ = _TURNS[orientation]
    if exchanged:
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image[:: -1 if rows else 1, :: -1 if columns else 1])


def _ends_early(data: bytes) -> bool:
    """Whether a file of a format that tells where it ends doesn't get there."""
    if data[:2] == b"\xff\xd8":
        # Segments of a known length (a thumbnail is in one), then pixels, in which no byte of value
        # 255 is followed by one of 217.
        place = 2
        while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != b"\xda":
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        return data.find(b"\xff\xd9", place) < 0
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return b"IEND\xae\x42\x60\x82" not in data
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if data[:4] in _TIFF:  # where the directory is, which may be the last thing in the file
        offset = data[4:8] if 42 in data[2:4] else data[8:16]
        return len(data) < 2 + int.from_bytes(offset, "little" if data[:1] == b"I" else "big")
    if data[4:8] == b"ftyp":
        place = 0
        while place < len(data):
            length = int.from_bytes(data[place : place + 4], "big")
            if length == 1:
                length = int.from_bytes(data[place + 8 : place + 16], "big")
            if length == 0:  # to the end of the file
                return False
            place += max(length, 8)
        return place > len(data)
    return False


def _pillow_finds_it_cut(data: bytes) -> bool:
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter("ignore")
            if math.prod(image.size) <= _MOST_PIXELS:
                image.load()
    except _BY_PILLOW as error:
        return "truncated" in str(error)
    return False


class _Hushed:
    """Nothing reaches this process's standard error meanwhile, whoever writes it.

    The libraries below OpenCV (libpng, libjpeg) print warnings there that nothing turns off, of a
    colour profile that they don't like, and OpenCV prints its reasons for what is an exception
    here. Threads may be within at the same time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._saved: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._within += 1
            if self._within > 1:
                return
            try:
                self._saved = os.dup(2)
            except OSError:  # there is none
                return
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if self._within == 0 and self._saved is not None:
                os.dup2(self._saved, 2)
                os.close(self._saved)
                self._saved = None


_HUSHED = _Hushed()


def _read_bytes(path: str | os.PathLike) -> bytes:
    # A Path has one slash where the URL that it was made from had two.
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?=[^/])", os.fspath(path))
    path = Path(path)
    if not os.path.exists(path):  # which pathlib doesn't answer for every text
        if found is not None:
            url = f"{found[1]}://{str(path)[found.end(1) + 1 :].lstrip('/')}"
            raise ValueError(f"{url}: is a URL, wanted an image file: download it first")
        raise FileNotFoundError(f"{path}: no such image")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, wanted an image file")
    data = given.read_bytes(path)
    if not data:
        raise ValueError(f"{path}: is empty")
    return data


def _positive(value: Any) -> float | None:
    """A tag as a float; None where it is missing, malformed, zero or not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None
