"""Runs in a child process that ends itself with SIGKILL, without loading everything again."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from n3match.pipelines.common.progress_log import ProgressLog


def run_until_killed(run: Callable[[], object], die: Callable[[pytest.MonkeyPatch], None]) -> None:
    """`run()` in a forked child that `die` has prepared to kill itself on the way."""
    child = os.fork()
    if child == 0:
        try:
            die(pytest.MonkeyPatch())
            run()
        finally:
            os._exit(0)  # it was not killed
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def is_gone(pid: int) -> bool:
    """Whether a process has ended; nobody may have asked for its status yet."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_record(count: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Dies when half of record `count` (from 0) of a log is written."""

    def die(monkeypatch) -> None:
        write = ProgressLog.write

        def fatal(self, key, payload):
            if len(self) == count:
                os.write(self._file.fileno(), b"\x04\0\0\0\xff\0\0\0half")
                kill()
            write(self, key, payload)

        monkeypatch.setattr(ProgressLog, "write", fatal)

    return die


def die_before(owner, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Dies when `owner.name` is called."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, lambda *_, **__: kill())
