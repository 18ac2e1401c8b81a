"""What became of a case: a result, a clear error, or what shouldn't be."""

from __future__ import annotations

import dataclasses
import dis
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

RESULT = "ordinary result"
CLEAR = "clear error"
FOREIGN = "error that isn't ours"
NONFINITE = "non-finite result"
MEMORY = "memory beyond the limit"
HANG = "hang"
CRASH = "crash"
OUTCOMES = (RESULT, CLEAR, FOREIGN, NONFINITE, MEMORY, HANG, CRASH)
GOOD = (RESULT, CLEAR)

#: Networks square numbers many times over: beyond this no finite result is promised of them.
LARGEST = 1e6
#: And what is smaller, but not 0, vanishes.
SMALLEST = 1e-12

_LONG = 60
_OURS = (ValueError, TypeError, OSError, ImportError)
_PACKAGES = ("n3match", "datasets", "pipelines")
_FUZZ = Path(__file__).parent


def judge_error(error: BaseException, names: Collection[str]) -> tuple[str, str]:
    """Whether an error is one of ours that says what is wrong.

    Args:
        error: that was raised.
        names: of arguments, or of files, one of which the message has to name.

    Returns:
        One of `OUTCOMES`, and what is to be said of it.
    """
    last = _last(error.__traceback__)
    place = f"{os.path.basename(last.tb_frame.f_code.co_filename)}:{last.tb_lineno}"
    text = " ".join(str(error).split())
    told = f"{type(error).__name__} at {place}: {text[:300]}"
    if isinstance(error, MemoryError) or ("alloc" in text.lower() and "memory" in text.lower()):
        return MEMORY, told
    if not isinstance(error, _OURS) or isinstance(error, UnicodeError):
        return FOREIGN, told
    if not any(_names(text, name) for name in names):
        return FOREIGN, f"names nothing of {sorted(names)[:8]}: {told}"
    # The system's own errors name a file by themselves.
    by_system = isinstance(error, OSError) and error.filename is not None
    if not by_system and not _is_raised_by_us(last):
        return FOREIGN, told
    return CLEAR, told


def _names(text: str, name: str) -> bool:
    if len(name) > _LONG or not name.isidentifier():  # a value, or a file
        return name[:_LONG] in text
    return re.search(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", text) is not None


def _last(tb: TracebackType | None) -> TracebackType:
    assert tb is not None
    while tb.tb_next is not None:
        tb = tb.tb_next
    return tb


def _is_raised_by_us(tb: TracebackType) -> bool:
    """Whether a `raise` of this package made it, and not something that it called."""
    code = tb.tb_frame.f_code
    name = tb.tb_frame.f_globals.get("__name__", "")
    if name.partition(".")[0] not in _PACKAGES or Path(code.co_filename).parent == _FUZZ:
        return False
    return dis.opname[code.co_code[tb.tb_lasti]] == "RAISE_VARARGS"


def judge_result(result: Any, inputs: Any, may_be_infinite: Collection[str] = ()) -> str:
    """RESULT, or NONFINITE where finite input of ordinary size gave NaN or infinite numbers.

    Args:
        result: of a call.
        inputs: its arguments.
        may_be_infinite: fields of the result, or keys, that are documented to be; "" for all.
    """
    if "" in may_be_infinite or not is_finite(inputs, largest=LARGEST, smallest=SMALLEST):
        return RESULT
    return RESULT if is_finite(result, may_be_infinite) else NONFINITE


def is_finite(
    value: Any, but: Collection[str] = (), *, largest: float = np.inf, smallest: float = 0.0
) -> bool:
    """Whether all numbers in a value are, however deep in it; and none is larger than `largest`, or
    nearer to 0 than `smallest`."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.device.type == "meta":
            return True
        value = value.detach().resolve_conj()
        value = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "O":
            return is_finite(value.ravel().tolist(), but, largest=largest, smallest=smallest)
        if value.dtype.kind not in "fciu":
            return True
        with np.errstate(all="ignore"):
            sizes = np.abs(np.asarray(value).astype(np.complex128 if value.dtype.kind == "c"
                                                    else np.float64))
        fits = np.isfinite(sizes) & (sizes <= largest) & ((sizes == 0) | (sizes >= smallest))
        return bool(fits.all())
    if isinstance(value, (bool, str, bytes)) or value is None:
        return True
    if isinstance(value, (int, float, complex, np.number)):
        size = abs(value)
        return bool(size <= largest and size < np.inf and (size == 0 or size >= smallest))
    more = {"largest": largest, "smallest": smallest}
    if isinstance(value, Mapping):
        return all(is_finite(v, but, **more) for k, v in value.items() if k not in but)
    if isinstance(value, (list, tuple, set)):
        return all(is_finite(v, but, **more) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (f.name for f in dataclasses.fields(value) if f.name not in but)
        return all(is_finite(getattr(value, name), but, **more) for name in fields)
    return True
