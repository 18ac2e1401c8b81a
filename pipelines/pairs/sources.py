"""Sources of pairs where stores are wanted: stores are taken as they are, of others one is made.

What `n3match build-pairs` takes is a source: a scene or a folder of scenes of any layout, a pair
list, a dump, a folder of photographs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from n3match.pipelines.common.arguments import (
    add_stored_pixels_argument,
    given_path,
    parse_intrinsics,
)

# Of the reliable matches of a pair, the share that its pose should explain, see `build_pairs`.
MIN_CONSISTENT = 0.15

# Options of `build_pairs` that say how a source is read.
_OPTIONS = ("format", "image_root", "intrinsics", "photographs", "feature", "stored_pixels")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for sources that aren't stores, as of build-pairs."""
    group = parser.add_argument_group("sources that aren't stores")
    group.add_argument(
        "--format", metavar="LAYOUT", help="as of build-pairs (default: recognised)"
    )
    group.add_argument(
        "--image-root", type=given_path, metavar="FOLDER", help="that names of images refer to"
    )
    group.add_argument(
        "--intrinsics", type=parse_intrinsics, metavar="FX,FY,CX,CY",
        help="of all images, where the layout has none (RGB-D)",
    )
    group.add_argument(
        "--photographs", action="store_true",
        help="they are folders of photographs: COLMAP finds the poses (build-pairs --images)",
    )
    group.add_argument(
        "--feature", default="sift", metavar="KIND", help="sift (default), orb, brisk or akaze"
    )
    add_stored_pixels_argument(group)


def source_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_source_arguments`, as `build_pairs` takes them."""
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    options["images"] = options.pop("photographs")
    return options


def stores_of(
    inputs: Sequence[str | Path],
    folder: Path,
    options: dict[str, Any],
    *,
    dumps: bool = False,
    **more: Any,
) -> list[Path]:
    """Pair stores as they are; of any other source the store of its pairs, made in `folder`.

    A store that is in `folder` already is used again, one that isn't finished is gone on with.

    Args:
        inputs: stores and sources.
        folder: made where it is needed.
        options: of `source_options`.
        dumps: those of OANet count as stores, too.
        more: other options of `build_pairs`, `max_keypoints` among them.

    Raises:
        FileNotFoundError: no such file or folder. ValueError: no source, or two of one name. See
            `build_pairs`.
    """
    from n3match.pipelines.pairs.make_store import build_pairs, tell_problems

    kind = options.get("feature", "sift")
    stores = store_paths(inputs, folder, kind, more["max_keypoints"], dumps)
    for path, store in zip(map(Path, inputs), stores):
        if store != path:
            folder.mkdir(parents=True, exist_ok=True)
            build_pairs(path, store, **options, **more)
            tell_problems(store)
    return stores


def store_paths(
    inputs: Sequence[str | Path], folder: Path, feature: str, max_keypoints: int,
    dumps: bool = False,
) -> list[Path]:
    """Where `stores_of` has its stores, made or not.

    Raises:
        FileNotFoundError: no such file or folder. ValueError: two sources of one name.
    """
    paths, made = [], {}
    for path in map(Path, inputs):
        if is_store(path, dumps):
            paths.append(path)
            continue
        place = path.resolve()
        name = place.name if path.is_dir() else place.stem
        if made.setdefault(name, place) != place:
            raise ValueError(f"{path}: of the same name as {made[name]}, wanted another one")
        kind = "" if feature == "sift" else f"{feature}-"
        paths.append(folder / f"{name}-{kind}{max_keypoints}.h5")
    return paths


def is_store(path: Path, dumps: bool = False) -> bool:
    """Whether it is a pair store, with pixels and cameras; or a dump, without, where these do.

    Raises:
        FileNotFoundError: no such file or folder. ValueError: a file named as HDF5 that isn't, or
            isn't of this kind.
    """
    from n3match.datasets.pairs.dump import is_pair_dump
    from n3match.datasets.pairs.store import has_extras, open_store

    if not path.exists():
        raise FileNotFoundError(f"{path}: no such pair store, scene or folder of scenes")
    if not is_pair_dump(path):
        return False
    with open_store(path) as file:
        return dumps or has_extras(file)


def photograph_folders(inputs: Sequence[Path], image_root: Path | None) -> list[Path]:
    """Folders with the photographs of sources that aren't stores, for `figures.find_image`."""
    folders = [path if path.is_dir() else path.parent for path in inputs if not is_store(path)]
    return folders if image_root is None else [*folders, image_root]
