"""The layouts that scenes come in, recognised and read.

    colmap     folder with a COLMAP model and photographs
    cnnet      folder with images.txt, calibration.txt, visibility.txt
    rgbd       folder with an RGB-D sequence
    pair-list  text file: names, intrinsics, relative pose
    dump       HDF5 with matches, no photographs: ../pairs/dump.py
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from n3match.datasets.pairs.dump import is_pair_dump
from n3match.datasets.scenes.cnnet import is_cnnet_scene, read_cnnet_scene
from n3match.datasets.scenes.colmap import is_colmap_scene, read_colmap_scene
from n3match.datasets.scenes.pair_list import is_pair_list, read_pair_list
from n3match.datasets.scenes.rgbd import is_rgbd_scene, read_rgbd_scene
from n3match.datasets.scenes.source import ReadOptions, SceneSource

# name -> (is a path this?, reader); a dump has matches in place of photographs and no reader here
_FORMATS: dict[str, tuple[Callable, Callable | None]] = {
    "colmap": (is_colmap_scene, read_colmap_scene),
    "cnnet": (is_cnnet_scene, read_cnnet_scene),
    "rgbd": (is_rgbd_scene, read_rgbd_scene),
    "dump": (is_pair_dump, None),
    "pair-list": (is_pair_list, read_pair_list),
}
FORMATS = tuple(_FORMATS)
_DEPTH = 3  # folders below the one given


@dataclass(frozen=True)
class FoundScene:
    """`name` is unique among the scenes found; `format` one of FORMATS."""

    name: str
    path: Path
    format: str


def find_scenes(
    path: str | Path, format: str | None = None, exclude: Sequence[str] = ()
) -> list[FoundScene]:
    """The scene that a path is, or the scenes below it, sorted by name.

    A scene below the folder is named by its path from there. Within a scene none is looked for.
    A file is taken to be of the layout told, whatever it looks like.

    Args:
        path: a scene (folder or file), or a folder of scenes, at most three levels up.
        format: one of FORMATS; None: whichever fits.
        exclude: names of scenes to leave out.

    Raises:
        FileNotFoundError: no such path. ValueError: no scene found, or `exclude` names none.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise ValueError(f"format: found {format!r}, wanted one of {', '.join(FORMATS)}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder or file")
    if path.is_file() and format is not None:
        found = [FoundScene(path.stem, path, format)]
    else:
        found = list(_search(path, path, format, 0))
    missing = sorted(set(exclude) - {scene.name for scene in found})
    if missing:
        raise ValueError(f"exclude: found {missing}, wanted names of scenes in {path}")
    chosen = [scene for scene in found if scene.name not in exclude]
    if not chosen:
        wanted = format or ", ".join(FORMATS)
        raise ValueError(f"{path}: no scene in it, wanted one of the layouts {wanted}")
    return chosen


def read_scene(scene: FoundScene, options: ReadOptions) -> SceneSource:
    """The scene by its layout's reader.

    Args:
        scene: one of `find_scenes`.
        options: what its reader may be told.

    Raises:
        ValueError: a dump, which has no photographs; OSError, ValueError: see the readers.
    """
    reader = _FORMATS[scene.format][1]
    if reader is None:
        raise ValueError(f"{scene.path}: a dump has no photographs")
    return reader(scene.path, scene.name, options)


def _search(path: Path, root: Path, format: str | None, depth: int):
    for name, (fits, _) in _FORMATS.items():
        # Files below a folder are not looked into: text and HDF5 files are part of most layouts.
        if format in (None, name) and (path.is_dir() or depth == 0) and fits(path):
            relative = path.relative_to(root).as_posix()
            scene_name = path.resolve().name if path.is_dir() else path.stem
            yield FoundScene(scene_name if relative == "." else relative, path, name)
            return
    if path.is_dir() and depth < _DEPTH:
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _search(child, root, format, depth + 1)
