"""`PairResult` as bytes and back, for the log of a run."""

from __future__ import annotations

import struct

import numpy as np

from n3match.plugins.colmap.database import PairResult, TwoViewGeometry

_HEAD = struct.Struct("<IIIi")  # checksum, kept matches, inliers, config (−1: no geometry)
_FIELDS = {"E": (3, 3), "F": (3, 3), "H": (3, 3), "qvec": (4,), "tvec": (3,)}


def to_bytes(result: PairResult) -> bytes:
    geometry = result.geometry
    if geometry is None:
        head = _HEAD.pack(result.before, len(result.matches), 0, -1)
        return head + result.matches.astype("<u4").tobytes()
    head = _HEAD.pack(
        result.before, len(result.matches), len(geometry.inliers), geometry.config
    )
    parts = [head, result.matches.astype("<u4").tobytes(), geometry.inliers.astype("<u4").tobytes()]
    for name, shape in _FIELDS.items():
        value = getattr(geometry, name)  # NaN stands for none
        parts.append(np.array(np.full(shape, np.nan) if value is None else value, "<f8").tobytes())
    return b"".join(parts)


def from_bytes(data: bytes) -> PairResult:
    before, kept, inliers, config = _HEAD.unpack_from(data)
    offset = _HEAD.size

    def take(kind: str, shape: tuple[int, ...]) -> np.ndarray:
        nonlocal offset
        found = np.frombuffer(data, kind, int(np.prod(shape)), offset).reshape(shape)
        offset += found.nbytes
        return found

    matches = take("<u4", (kept, 2))
    if config < 0:
        return PairResult(before, matches, None)
    rows = take("<u4", (inliers, 2))
    fields = {name: take("<f8", shape) for name, shape in _FIELDS.items()}
    fields = {name: None if np.isnan(v).any() else v for name, v in fields.items()}
    return PairResult(before, matches, TwoViewGeometry(config, rows, **fields))
