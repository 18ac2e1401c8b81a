"""Values that aren't what was asked for: of another type, shape, order, size, or no numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

Rng = np.random.Generator


class _Subclass(np.ndarray):
    """An array of a class of its own."""


class _Tensor(torch.Tensor):
    """A tensor of a class of its own."""


def _nothing(*_, **__) -> None:
    """A function that takes anything: an error of a caller's own is nobody else's."""


def damaged(value: Any, rng: Rng) -> Any:
    """Something in the place of a value: mostly near to it, sometimes anything at all."""
    try:
        return anything(rng) if rng.random() < 0.12 else _changed(value, rng)
    except Exception:  # what was damaged before may allow no more of it
        return anything(rng)


def _changed(value: Any, rng: Rng) -> Any:
    if isinstance(value, np.ndarray):
        return _one_of(_ARRAYS, rng)(value, rng)
    if isinstance(value, torch.Tensor):
        return _one_of(_TENSORS, rng)(value, rng)
    if isinstance(value, (bool, np.bool_)):
        return _one_of([int(value), np.bool_(value), str(value), None, 2, np.array(value)], rng)
    if isinstance(value, (int, float, np.number)):
        return _one_of(_NUMBERS, rng)(value)
    if isinstance(value, (str, Path)):
        return _one_of(_TEXTS, rng)(str(value))
    if isinstance(value, dict):
        return _damaged_dict(value, rng)
    if isinstance(value, (list, tuple)):
        return _damaged_sequence(value, rng)
    return anything(rng)


def damage_some(arguments: dict[str, Any], rng: Rng) -> dict[str, Any]:
    """Arguments of which none, one or two are damaged."""
    arguments = dict(arguments)
    chance = rng.random()
    for _ in range(0 if chance < 0.2 else 1 if chance < 0.8 else 2):
        if arguments:
            name = _one_of(list(arguments), rng)
            arguments[name] = damaged(arguments[name], rng)
    return arguments


def anything(rng: Rng) -> Any:
    """A value of any type."""
    return _one_of(_ANYTHING, rng)(rng)


def _one_of(choices, rng: Rng):
    return choices[int(rng.integers(len(choices)))]


def _damaged_dict(value: dict, rng: Rng) -> Any:
    found = dict(value)
    if found and rng.random() < 0.8:
        name = _one_of(list(found), rng)
        if rng.random() < 0.3:
            del found[name]
        else:
            found[name] = damaged(found[name], rng)
        return found
    return {**found, "unknown": 1}


def _damaged_sequence(value: list | tuple, rng: Rng) -> Any:
    found = list(value)
    choice = int(rng.integers(6))
    if found and choice < 3:
        place = int(rng.integers(len(found)))
        found[place] = damaged(found[place], rng)
    elif found and choice == 3:
        found.pop()
    elif choice == 4:
        found.append(found[0] if found else anything(rng))
    else:
        found = []
    return type(value)(found) if type(value) in (list, tuple) else found


def _with_numbers(value: np.ndarray, rng: Rng, numbers: tuple[float, ...]) -> np.ndarray:
    if not value.size or value.dtype.kind not in "fc":
        value = value.astype(np.float64)
    found = value.copy()
    if found.size:
        count = 1 if rng.random() < 0.5 else found.size
        found.ravel()[rng.integers(found.size, size=count)] = _one_of(numbers, rng)
    return found


def _of_type(value: np.ndarray, rng: Rng) -> np.ndarray:
    kind = _one_of(
        ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16", "O",
         "S3", "U3", "M8[s]", "m8[s]", ">f8", ">f4", ">i4", "longdouble", "V4"],
        rng,
    )
    with np.errstate(all="ignore"):
        try:
            return value.astype(kind)
        except (TypeError, ValueError, OverflowError):
            return np.zeros(value.shape, kind)


def _of_shape(value: np.ndarray, rng: Rng) -> np.ndarray:
    choice = int(rng.integers(10))
    if choice == 0:
        return value[None]
    if choice == 1:
        return value[..., None]
    if choice == 2:
        return value.ravel()
    if choice == 3 and value.ndim:
        return value[:-1]
    if choice == 4 and value.ndim:
        return value[..., :-1]
    if choice == 5:
        return value.T
    if choice == 6 and value.ndim:
        return np.concatenate([value, value])
    if choice == 7:
        return np.zeros((0,) * max(value.ndim, 1), value.dtype)
    if choice == 8 and value.ndim:
        return value[:0]
    return np.zeros(tuple(rng.integers(0, 4, size=rng.integers(0, 6))), value.dtype)


def _in_order(value: np.ndarray, rng: Rng) -> np.ndarray:
    """The same numbers, otherwise in memory."""
    choice = int(rng.integers(7))
    if choice == 0:
        return np.asfortranarray(value)
    if choice == 1:
        doubled = np.repeat(value[..., None], 2, axis=-1)
        return doubled[..., 0]
    if choice == 2:
        return value[::-1].copy()[::-1] if value.ndim else value
    if choice == 3:
        found = value.copy()
        found.flags.writeable = False
        return found
    if choice == 4:
        return value.view(_Subclass)
    if choice == 5:
        return np.ma.masked_array(value)
    return np.broadcast_to(value.ravel()[:1], value.shape) if value.size else value


def _unaligned(value: np.ndarray, rng: Rng) -> np.ndarray:
    room = np.zeros(value.nbytes + 1, np.uint8)
    found = room[1:].view(value.dtype).reshape(value.shape) if value.size else value
    if value.size:
        found[...] = value
    return found


_ARRAYS: list[Callable[[np.ndarray, Rng], Any]] = [
    _of_type,
    _of_type,
    _of_shape,
    _of_shape,
    _in_order,
    _in_order,
    _unaligned,
    lambda value, rng: _with_numbers(value, rng, (np.nan, np.inf, -np.inf)),
    lambda value, rng: _with_numbers(value, rng, (1e300, -1e300, 1e38, 1e-300, 1e-40, 1e20, -1e10)),
    lambda value, rng: _with_numbers(value, rng, (0.0, -1.0, 1.0, -0.0, 0.5, 1e6)),
    lambda value, rng: np.zeros_like(value),
    lambda value, rng: value.tolist(),
    lambda value, rng: torch.from_numpy(np.array(value)) if value.dtype.kind in "fiu?"
    and value.dtype not in (np.uint16, np.uint32, np.uint64) else value.tolist(),
    lambda value, rng: None,
    lambda value, rng: [value, value],
    lambda value, rng: [*value.tolist(), "x"] if value.ndim else "x",
    lambda value, rng: np.matrix(value) if value.ndim <= 2 else value,
]


def _tensor_of_type(value: torch.Tensor, rng: Rng) -> torch.Tensor:
    return value.to(_one_of(
        [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int32,
         torch.int64, torch.uint8, torch.bool, torch.complex64], rng,
    ))


def _as_array_would(
    change: Callable[[np.ndarray, Rng], Any]
) -> Callable[[torch.Tensor, Rng], Any]:
    def apply(value: torch.Tensor, rng: Rng) -> Any:
        if value.dtype == torch.bfloat16:
            value = value.float()
        found = change(value.detach().numpy(), rng)
        return torch.from_numpy(np.array(found)) if isinstance(found, np.ndarray) else found

    return apply


_TENSORS: list[Callable[[torch.Tensor, Rng], Any]] = [
    _tensor_of_type,
    _tensor_of_type,
    _as_array_would(_of_shape),
    _as_array_would(_of_shape),
    *(_as_array_would(change) for change in _ARRAYS[7:11]),
    lambda value, rng: value.detach().clone().requires_grad_() if value.is_floating_point()
    else value,
    lambda value, rng: value.mT.contiguous().mT if value.ndim > 1 else value,
    lambda value, rng: value.unsqueeze(-1).expand(*value.shape, 2)[..., 0],
    lambda value, rng: value.detach().clone().as_subclass(_Tensor),
    lambda value, rng: value.to("meta"),
    lambda value, rng: value.to_sparse() if value.ndim else value,
    lambda value, rng: value.detach().to("cpu").float().numpy(),
    lambda value, rng: value.tolist(),
    lambda value, rng: None,
]

_NUMBERS: list[Callable[[Any], Any]] = [
    lambda x: 0, lambda x: -1, lambda x: -x, lambda x: x + 0.5, lambda x: float(x),
    lambda x: np.nan, lambda x: np.inf, lambda x: -np.inf, lambda x: 1e300, lambda x: 1e-300,
    lambda x: 2**31, lambda x: 2**63, lambda x: 2**70, lambda x: -(2**70), lambda x: str(x),
    lambda x: None, lambda x: True, lambda x: np.float32(x), lambda x: np.float64(x),
    lambda x: np.array(x), lambda x: np.array([x]), lambda x: complex(x), lambda x: [x],
    lambda x: torch.tensor(x), lambda x: b"1", lambda x: x + 1, lambda x: x * 2, lambda x: 1,
]  # fmt: skip

_TEXTS: list[Callable[[str], Any]] = [
    lambda x: "", lambda x: x.upper(), lambda x: x + "x", lambda x: x.encode(), lambda x: None,
    lambda x: Path(x), lambda x: "\0", lambda x: "../" + x, lambda x: "/" + x, lambda x: "ü" * 200,
    lambda x: "x" * 5000, lambda x: 1, lambda x: [x], lambda x: "\ud800", lambda x: "%s%d{0}",
    lambda x: "/dev/null", lambda x: "/dev/zero", lambda x: np.str_(x),
]  # fmt: skip

_ANYTHING: list[Callable[[Rng], Any]] = [
    lambda rng: None,
    lambda rng: "text",
    lambda rng: b"bytes",
    lambda rng: "",
    lambda rng: int(rng.integers(-3, 1000)),
    lambda rng: float(rng.normal()),
    lambda rng: True,
    lambda rng: [],
    lambda rng: {},
    lambda rng: (),
    lambda rng: object(),
    lambda rng: object,
    lambda rng: _nothing,
    lambda rng: np.nan,
    lambda rng: 1j,
    lambda rng: [[1.0, 2.0], [3.0]],
    lambda rng: [None, None],
    lambda rng: np.array(None),
    lambda rng: np.zeros(tuple(rng.integers(0, 4, size=rng.integers(0, 6)))),
    lambda rng: torch.zeros(tuple(int(n) for n in rng.integers(0, 4, size=rng.integers(0, 6)))),
    lambda rng: iter([1, 2]),
    lambda rng: {1, 2},
    lambda rng: range(3),
    lambda rng: memoryview(b"1234"),
    lambda rng: np.array(["a", "b"]),
    lambda rng: np.zeros(3, [("a", "f4"), ("b", "i4")]),
    lambda rng: Path("nowhere"),
]
