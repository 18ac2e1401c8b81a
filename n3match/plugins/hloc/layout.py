"""Which groups of hloc's files are images and pairs.

A features file has a group per image, by the image's name ("db/1.jpg" is a group in a group). A
matches file has a group per pair: both names with "/" as "-", joined by "/", in old files by "_".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import h5py

from n3match.arguments import instance, sequence
from n3match.files.hdf5 import member, members


@dataclass(frozen=True)
class HlocPair:
    """`group` of a matches file is about the keypoints of image `name0`, matched to `name1`."""

    group: str
    name0: str
    name1: str


def image_names(features: h5py.File) -> list[str]:
    """Names of the images with keypoints, in the order of the file.

    Args:
        features: hloc's file of features, opened for reading.

    Raises:
        ValueError: it is damaged. TypeError: no open file.
    """
    names = []

    def visit(name: str, item) -> None:
        if isinstance(item, h5py.Dataset) and name.endswith("/keypoints"):
            names.append(name.removesuffix("/keypoints"))

    try:
        instance("features", features, h5py.Group).visititems(visit)  # which follows no links
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"features: {features.filename}: damaged ({error})") from error
    return names


def list_pairs(matches: h5py.File, names: list[str]) -> list[HlocPair]:
    """All pairs of a matches file, in the order of the file.

    Args:
        matches: opened for reading.
        names: of the images, from `image_names`.

    Raises:
        ValueError: a group that isn't a pair of these images, or that could be several.
    """
    instance("matches", matches, h5py.Group)
    by_dashed: dict[str, list[str]] = {}
    for name in sequence("names", names, "names of images"):
        instance("names", name, str)
        by_dashed.setdefault(name.replace("/", "-"), []).append(name)
    return [
        HlocPair(group, *_names(matches.filename, group, by_dashed)) for group in _groups(matches)
    ]


def find_pair(matches: h5py.File, name0: str, name1: str) -> HlocPair:
    """The group of a pair, which may be stored in the other order: look at `name0` of the answer.

    Args:
        matches: hloc's file of matches, opened for reading.
        name0, name1: of the images, with "/" as in the features file.

    Raises:
        ValueError: the file lacks the pair.
    """
    instance("matches", matches, h5py.Group)
    for argument, name in (("name0", name0), ("name1", name1)):
        instance(argument, name, str)
    plain0, plain1 = (name.replace("/", "-") for name in (name0, name1))
    for joint in ("/", "_"):
        for group, names in (
            (f"{plain0}{joint}{plain1}", (name0, name1)),
            (f"{plain1}{joint}{plain0}", (name1, name0)),
        ):
            if _is_pair(member(matches, group)):
                return HlocPair(group, *names)
    raise ValueError(f"{matches.filename}: lacks the pair {name0}, {name1} (in either order)")


def _groups(matches: h5py.File) -> Iterator[str]:
    # Two levels and no more: visititems would touch every dataset of a large file.
    for name, item in members(matches):
        if not isinstance(item, h5py.Group):
            continue
        if _is_pair(item):
            yield name
        else:
            yield from (f"{name}/{inner}" for inner, found in members(item) if _is_pair(found))


def _is_pair(item) -> bool:
    return isinstance(item, h5py.Group) and member(item, "matches0") is not None


def _names(path: str, group: str, by_dashed: dict[str, list[str]]) -> tuple[str, str]:
    first, slash, second = group.partition("/")
    if slash:
        splits = [(first, second)]
    else:
        ends = [i for i, letter in enumerate(group) if letter == "_"]
        splits = [(group[:i], group[i + 1 :]) for i in ends]
    found = [
        (name0, name1)
        for dashed0, dashed1 in splits
        for name0 in by_dashed.get(dashed0, ())
        for name1 in by_dashed.get(dashed1, ())
    ]
    if not found:
        raise ValueError(f"{path}: {group}: not a pair of images that the features file has")
    if len(found) > 1:
        raise ValueError(f"{path}: {group}: could be any of {found[:3]}; name the pairs wanted")
    return found[0]
