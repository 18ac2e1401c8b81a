"""The compiled loops at a chosen level, within one process."""

import contextlib

import pytest

from n3match import native
from n3match.native import library


@contextlib.contextmanager
def held_to(level: str):
    """Run at `level`, one of `native.LEVELS`; skip where there is no such level."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("N3MATCH_NATIVE", level)
        forget_library()
        try:
            if native.level() != level:
                pytest.skip(f"no compiled library, or a processor without {level}")
            yield
        finally:
            patch.undo()
            forget_library()


def forget_library() -> None:
    """It is looked for anew, in the environment that is there then."""
    library._loaded.cache_clear()
