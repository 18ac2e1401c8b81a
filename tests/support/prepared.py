"""New processes that need not load everything again: forks of one that has done no more than that.

Loading torch takes seconds, and several of our promises are about processes: they share a batch,
they are killed, they load no more than they need. A fork of the tests' own process would inherit
its threads and open files; these come from multiprocessing's fork server, which has loaded what we
stand on and run nothing.
"""

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

# Nothing of ours: what that loads, and what it doesn't, is tested here too.
_LOADED = [
    "cv2", "h5py", "matplotlib.figure", "pytest", "safetensors.torch", "scipy.spatial.transform",
    "scipy.special", "sympy", "torch.distributed", "tqdm",
]  # fmt: skip

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(_LOADED)


def start(
    function: Callable, *arguments, environment: dict[str, str] | None = None,
    output: Path | None = None,
):
    """A process that runs `function(*arguments)`, importable, with variables and stdout set."""
    process = context.Process(
        target=_run, args=(function, arguments, environment or {}, output)
    )
    process.start()
    return process


def _run(function, arguments, environment, output) -> None:
    os.environ.update(environment)
    with contextlib.ExitStack() as stack:
        path = os.devnull if output is None else output
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(path, "w"))))
        status = function(*arguments)
    raise SystemExit(status if isinstance(status, int) else 0)


def start_ranks(function: Callable, *arguments, count: int, outputs: Sequence[Path] = ()) -> list:
    """Processes 0 … count − 1 of one job, told apart as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        start(
            function, *arguments, environment={**job, "RANK": str(rank)},
            output=outputs[rank] if outputs else None,
        )
        for rank in range(count)
    ]


def run(code: str, output: Path | None = None) -> int:
    """Runs lines of Python as a program; its exit status."""
    process = start(exec, code, {"__name__": "__main__"}, output=output)
    process.join(600)
    return process.exitcode


def finish(processes: Sequence) -> None:
    """They all end, and end well."""
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * len(processes)
