"""Lists of image pairs with known pose, as SuperGlue's evaluation uses them: see source.py.

A text file with a line for each pair:

    name0 name1 rotation0 rotation1 K0 (9 numbers) K1 (9) T_0to1 (16)

matrices row by row. The rotations, numbers of quarter turns that bring each photograph upright, are
read and not applied: K and T are for the files as OpenCV reads them, and SIFT does not care.
"""

from pathlib import Path

import numpy as np

from n3match.datasets.scenes.source import (
    ReadOptions,
    ScenePair,
    SceneSource,
    View,
    checked_intrinsics,
    checked_pose,
    read_lines,
)
from n3match.files.given import inside

_COLUMNS = 4 + 9 + 9 + 16


def is_pair_list(path: Path) -> bool:
    """Whether the first line that is not empty has two names and 36 numbers."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(1 << 16)
    words = next((line.split() for line in start.splitlines() if line.strip()), [])
    try:
        np.array(words[2:], dtype=np.float64)
    except ValueError:
        return False
    return len(words) == _COLUMNS


def read_pair_list(path: Path, name: str, options: ReadOptions) -> SceneSource:
    """Views and pairs of a list; images relative to its folder, or to `options.image_root`.

    Covisibility is not known (num_shared 0, overlap NaN), nor is the size of the photographs. A
    line that can't be used is a problem of the scene, not its end; a photograph with other
    intrinsics than in an earlier line gets a view of its own, NAME#2.

    Raises:
        FileNotFoundError: no such file. ValueError: not a text file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such pair list")
    root = path.parent if options.image_root is None else options.image_root
    views: dict[str, View] = {}
    pairs, problems = [], []
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split()
        if not words:
            continue
        try:
            names, K0, K1, R, t = _parse(words, f"{path}: line {number}")
        except ValueError as error:
            problems.append(str(error))
            continue
        keys = [_view_key(views, root, n, K, options.stored) for n, K in zip(names, (K0, K1))]
        pairs.append(ScenePair(*keys, R, t))
    return SceneSource(name, views, pairs, problems)


def _parse(words: list[str], where: str):
    if len(words) != _COLUMNS:
        wanted = "name0 name1 rot0 rot1 K0(9) K1(9) T_0to1(16)"
        raise ValueError(f"{where}: found {len(words)} words, wanted {_COLUMNS}: {wanted}")
    try:
        turns = [int(word) for word in words[2:4]]
        numbers = np.array(words[4:], dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{where}: {error}, wanted numbers after the names") from error
    if not all(0 <= turn < 4 for turn in turns):
        raise ValueError(f"{where}: found rotations {turns}, wanted 0 to 3 quarter turns")
    K0, K1 = (
        checked_intrinsics(numbers[i : i + 9].reshape(3, 3), f"{where}: K{i // 9}") for i in (0, 9)
    )
    T = numbers[18:].reshape(4, 4)
    R, t = checked_pose(T[:3, :3], T[:3, 3], f"{where}: T_0to1")
    if np.linalg.norm(t) == 0:
        raise ValueError(f"{where}: T_0to1: found no translation, wanted two places")
    if words[0] == words[1]:
        raise ValueError(f"{where}: found {words[0]!r} twice, wanted two images")
    return words[:2], K0, K1, R, t


def _view_key(
    views: dict[str, View], root: Path, name: str, K: np.ndarray, stored: bool
) -> str:
    key, count = name, 1
    while key in views and not np.array_equal(views[key].K, K):
        count += 1
        key = f"{name}#{count}"
    views.setdefault(key, View(key, inside(root, name, "pair list"), K, stored=stored))
    return key
