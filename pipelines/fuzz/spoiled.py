"""Files that aren't what they were: bytes changed, cut out, added."""

from __future__ import annotations

import re

import numpy as np

Rng = np.random.Generator

_INTEGERS = (0, 1, -1, 2, 127, 255, 256, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, 10**9)
_WORDS = (
    b"nan", b"inf", b"-inf", b"1e999", b"-1", b"0", b"9" * 30, b"x", b"", b"1e300", b"\xff\xfe",
    b"../x", b"/dev/zero", b"\0", b"0.5", b"9" * 5000, "ü".encode(), b"[" * 3000, b"null",
)  # fmt: skip


def spoiled(data: bytes, rng: Rng, *, text: bool = False) -> bytes:
    """The bytes of a file, changed in one way or in several.

    Args:
        data: of a good file.
        rng: of the changes.
        text: words are exchanged too.
    """
    for _ in range(int(rng.choice([1, 2, 4], p=[0.6, 0.25, 0.15]))):
        ways = (*_WAYS, _other_word, _other_word, _other_word) if text else _WAYS
        data = ways[int(rng.integers(len(ways)))](data, rng)
    return data


def _place(data: bytes, rng: Rng) -> int:
    """In the file, more often near its start, where headers are."""
    if rng.random() < 0.5:
        return int(rng.integers(min(len(data), 512) + 1))
    return int(rng.integers(len(data) + 1))


def _other_bytes(data: bytes, rng: Rng) -> bytes:
    found = bytearray(data)
    for _ in range(int(rng.choice([1, 3, 20]))):
        if found:
            found[_place(data, rng) % len(found)] = int(rng.choice([0, 255, rng.integers(256)]))
    return bytes(found)


def _other_bit(data: bytes, rng: Rng) -> bytes:
    found = bytearray(data)
    if found:
        found[_place(data, rng) % len(found)] ^= 1 << int(rng.integers(8))
    return bytes(found)


def _other_integer(data: bytes, rng: Rng) -> bytes:
    """A number of 1 to 8 bytes, in either order."""
    size, place = int(rng.choice([1, 2, 4, 8])), _place(data, rng)
    number = _INTEGERS[int(rng.integers(len(_INTEGERS)))] % 2 ** (8 * size)
    order = "little" if rng.random() < 0.7 else "big"
    return data[:place] + number.to_bytes(size, order) + data[place + size :]


def _cut(data: bytes, rng: Rng) -> bytes:
    return data[: _place(data, rng)]


def _without(data: bytes, rng: Rng) -> bytes:
    place = _place(data, rng)
    return data[:place] + data[place + int(rng.choice([1, 4, 100])) :]


def _with_more(data: bytes, rng: Rng) -> bytes:
    place = _place(data, rng) if rng.random() < 0.6 else len(data)
    more = rng.bytes(int(rng.choice([1, 8, 300])))
    return data[:place] + (more if rng.random() < 0.5 else bytes(len(more))) + data[place:]


def _twice(data: bytes, rng: Rng) -> bytes:
    first, second = sorted((_place(data, rng), _place(data, rng)))
    return data[:second] + data[first:second] + data[second:]


def _other_word(data: bytes, rng: Rng) -> bytes:
    words = [match.span() for match in re.finditer(rb"[^\s,;:\"\[\]{}]+", data[:20000])]
    if not words:
        return _other_bytes(data, rng)
    start, stop = words[int(rng.integers(len(words)))]
    return data[:start] + _WORDS[int(rng.integers(len(_WORDS)))] + data[stop:]


_WAYS = (
    _other_bytes, _other_bytes, _other_bit, _other_integer, _other_integer, _cut, _without,
    _with_more, _twice,
)  # fmt: skip
