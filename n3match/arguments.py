"""Checks of arguments that all rooms share. Errors name the argument, what was found, what wanted.

What Python can make of a value without guessing is taken: numbers of numpy and of torch, arrays
of any order in memory, nested lists. Text, truth values and complex numbers are no numbers.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

#: Networks take no larger numbers: their squares' squares are still finite in float32.
MODERATE = 1e9
# NumPy turns complex numbers into real ones, with a warning.
_NO_NUMBERS = (bool, np.bool_, str, bytes, complex, np.complexfloating)


def found(value: Any) -> str:
    """A value in a word or two, for messages."""
    if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim:
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    if value is None or isinstance(value, (int, float, complex, np.number)):
        return repr(value)
    return type(value).__name__


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number within bounds.

    Raises:
        TypeError: no whole number. ValueError: out of bounds.
    """
    try:
        if isinstance(value, _NO_NUMBERS):
            raise TypeError
        number = operator.index(value)
    except (TypeError, RuntimeError):
        raise TypeError(f"{name} must be a whole number, got {found(value)}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {_short(number)}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}, got {_short(number)}")
    return number


def real(name: str, value: Any) -> float:
    """A real number; NaN and infinity are for the caller to refuse.

    Raises:
        TypeError: no such.
    """
    try:
        if isinstance(value, _NO_NUMBERS):
            raise TypeError
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, got {found(value)}") from None


def positive(name: str, value: Any, unit: str = "") -> float:
    """A finite number above 0; unit: told in the message, as in " of pixels".

    Raises:
        TypeError: no number. ValueError: another one.
    """
    number = real(name, value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be a positive number{unit}, got {number:g}")
    return number


def flag(name: str, value: Any) -> bool:
    """A truth value, or anything that has one.

    Raises:
        TypeError: it has none, as an array hasn't.
    """
    try:
        return bool(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be True or False, got {found(value)}") from None


def one_of(name: str, value: Any, choices: Collection[str]) -> str:
    """A word out of several.

    Raises:
        ValueError: another word, or no word at all.
    """
    if not isinstance(value, str) or value not in choices:
        shown = repr(value)[:80] if isinstance(value, str) else found(value)
        raise ValueError(f"{name} must be one of {tuple(choices)}, got {shown}")
    return value


def check_function(name: str, value: Any) -> None:
    """Require a function, or another object that can be called; a class isn't meant.

    Raises:
        TypeError: no such.
    """
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name} must be a function, got {found(value)}")


def instance(name: str, value: Any, kind: type) -> Any:
    """A value of a type.

    Raises:
        TypeError: of another.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {found(value)}")
    return value


def sequence(name: str, value: Any, of: str) -> Sequence:
    """Something with a length and entries by number; of: what it is to hold, for the message.

    Raises:
        TypeError: no such, or text.
    """
    if isinstance(value, (str, bytes, dict)) or not (
        hasattr(value, "__len__") and hasattr(value, "__getitem__")
    ) or getattr(value, "ndim", 1) == 0:
        raise TypeError(f"{name} must be a sequence of {of}, got {found(value)}")
    return value


def device(name: str, value: Any) -> torch.device:
    """A device that is there.

    Raises:
        ValueError: there is none of that name, or this PyTorch can't use it.
    """
    try:
        where = torch.device(value)
        # Of a GPU nothing is made: each of a job's processes would take memory of the first one.
        if where.type != "cuda":
            torch.empty(0, device=where)
        elif (where.index or 0) >= torch.cuda.device_count():
            raise RuntimeError(f"found {torch.cuda.device_count()} GPUs")
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{name}: {value!r} can't be used: {reason}"[:300]) from error
    return where


def computing_device(name: str, value: Any) -> torch.device:
    """`device`, but for "meta", which computes nothing.

    Raises:
        ValueError: as there.
    """
    where = device(name, value)
    if where.type == "meta":
        raise ValueError(f"{name}: {value!r} computes nothing, wanted another device")
    return where


def number_array(name: str, value: Any) -> np.ndarray:
    """Real numbers as an array of the type that they have, in the machine's order of bytes.

    Args:
        name: of the argument.
        value: an array, a tensor, nested lists, a number.

    Raises:
        TypeError: it holds something else, or rows of several lengths.
    """
    if isinstance(value, torch.Tensor):
        value = _array_of(name, value)
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O":
            array = np.array([_as_float(v) for v in array.ravel()], np.float64).reshape(array.shape)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array of real numbers, got {found(value)}") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be an array of real numbers, got one of {array.dtype}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def real_array(name: str, value: Any) -> np.ndarray:
    """`number_array` as float64."""
    return number_array(name, value).astype(np.float64, copy=False)


def finite_array(name: str, value: Any, ndim: int, columns: int | None, legend: str) -> np.ndarray:
    """`real_array` of a shape, without NaN and infinite numbers.

    Args:
        name, value: as of `number_array`.
        ndim: number of dimensions. columns: length of the last one; None: any.
        legend: the shape in words, e.g. "(N, 2)".

    Raises:
        TypeError: no numbers. ValueError: another shape, NaN or infinite numbers.
    """
    array = real_array(name, value)
    if array.ndim != ndim or (columns is not None and array.shape[-1] != columns):
        raise ValueError(f"{name} must have shape {legend}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite numbers: finite numbers wanted")
    return array


def index_array(name: str, value: Any, count: int | None = None) -> np.ndarray:
    """(N,) whole numbers as int64, from 0 to below `count`; None: any.

    Raises:
        TypeError: other numbers. ValueError: another shape, or a number out of bounds.
    """
    array = number_array(name, value)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} must hold whole numbers, got {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (N,), got {array.shape}")
    if count is not None and array.size and not 0 <= int(array.min()) <= int(array.max()) < count:
        raise ValueError(
            f"{name} must lie in 0 … {count - 1}, got {int(array.min())} to {int(array.max())}"
        )
    return array.astype(np.int64)


def dense_tensor(name: str, value: Any) -> torch.Tensor:
    """A tensor that holds its numbers: not sparse, not of the device "meta".

    Raises:
        TypeError: no tensor, or another kind of one.
    """
    if strided_tensor(name, value).device.type == "meta":
        raise TypeError(
            f"{name} must be a dense tensor with numbers in it, got one of the device "
            f"{value.device}"
        )
    return value


def strided_tensor(name: str, value: Any) -> torch.Tensor:
    """A tensor that isn't sparse, on any device, "meta" among them.

    Raises:
        TypeError: no tensor, or another kind of one.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {found(value)}")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got one {value.layout}")
    return value


def check_moderate(name: str, value: torch.Tensor | np.ndarray) -> None:
    """Require numbers that a network can square several times over.

    Raises:
        ValueError: NaN, infinite numbers or larger ones than `MODERATE`.
    """
    if isinstance(value, torch.Tensor):
        if not value.numel():
            return
        low, high = (float(bound) for bound in torch.aminmax(value.detach()))
    elif value.size:
        low, high = float(value.min()), float(value.max())
    else:
        return
    if low >= -MODERATE and high <= MODERATE:
        return
    if math.isfinite(low) and math.isfinite(high):
        raise ValueError(f"{name} holds numbers as far apart as {low:g} and {high:g}: numbers "
                         f"within ±{MODERATE:g} wanted")
    raise ValueError(f"{name} holds NaN or infinite numbers: finite numbers wanted")


def lent_tensor(name: str, value: np.ndarray) -> torch.Tensor:
    """A tensor of an array's numbers, which lends its memory where torch can use it.

    Raises:
        TypeError: no real numbers.
    """
    array = np.ascontiguousarray(number_array(name, value)).reshape(np.shape(value))
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    # An axis of length 1 is contiguous with any stride; torch takes no negative one.
    lendable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    array = array if lendable else array.copy()
    # By its size: C's long long is a type beside the long of as many bits, and unknown to torch.
    return torch.from_numpy(array.view(array.dtype.str))


def _as_float(value: Any) -> float:
    if isinstance(value, _NO_NUMBERS):
        raise TypeError
    return float(value)


def _array_of(name: str, tensor: torch.Tensor) -> np.ndarray:
    tensor = dense_tensor(name, tensor).detach().cpu()
    if tensor.is_complex():
        raise TypeError(f"{name} must be an array of real numbers, got one of {tensor.dtype}")
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**20 else f"one of {number.bit_length()} bits"
