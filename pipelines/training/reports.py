"""What a run tells while it goes on: CSV files, TensorBoard, a line that moves."""

from __future__ import annotations

import csv
import importlib.util
import sys
import time
from pathlib import Path

from tqdm import tqdm

from n3match.files.whole import whole_file
from n3match.pipelines.common.progress import is_quiet

_PRINT_EVERY = 20  # steps, where the output is no terminal


class Reports:
    """Numbers of each step and of each validation; of the first process alone.

    Args:
        folder: of the run. log.csv and validation.csv are written there, and a folder
            `tensorboard` where that package is installed.
        start, steps: the step that comes next, and how many there are.
    """

    def __init__(self, folder: Path, start: int, steps: int):
        self._log = _CsvLog(folder / "log.csv", start)
        # A row of a validation has the number of steps done, a step's row those done before.
        self._validations = _CsvLog(folder / "validation.csv", start + 1)
        self._board = _tensorboard(folder / "tensorboard", start)
        self._start, self._steps = start, steps
        self._began = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and not is_quiet():
            self._bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True)

    def step(self, step: int, numbers: dict[str, float]) -> None:
        self._log.write(step, numbers)
        self._to_board("train", step, numbers)
        shown = " ".join(f"{k} {v:.4f}" for k, v in numbers.items())
        if self._bar is not None:
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update()
        elif not is_quiet() and ((step + 1) % _PRINT_EVERY == 0 or step + 1 == self._steps):
            done = step + 1
            left = (time.monotonic() - self._began) / (done - self._start) * (self._steps - done)
            print(f"step {done}/{self._steps} {shown} ({left / 60:.0f} min left)", flush=True)

    def validation(self, step: int, numbers: dict[str, float], is_best: bool) -> None:
        self._validations.write(step, numbers)
        self._to_board("validation", step, numbers)
        shown = " ".join(f"{k} {100 * v:.1f}" for k, v in numbers.items())
        self.say(f"validation after {step} steps: {shown}{' (best)' if is_best else ''}")

    def say(self, text: str) -> None:
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            self._board.close()

    def _to_board(self, kind: str, step: int, numbers: dict[str, float]) -> None:
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)


def _tensorboard(folder: Path, start: int):
    """A writer that hides what it wrote from step `start` on; None without the package."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=start)


class _CsvLog:
    """A row of numbers per step; those of step `start` and later are dropped, they will be run
    again."""

    def __init__(self, path: Path, start: int):
        self._path = path
        if path.exists():
            _cut(path, start)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *numbers])
            writer.writerow([step, *(f"{v:.6g}" for v in numbers.values())])


def _cut(path: Path, start: int) -> None:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    # A kill may leave half a row behind; it belongs to a step that will be run again.
    kept = [row for row in rows[1:] if len(row) == len(rows[0]) and int(row[0]) < start]
    if not kept:
        path.unlink()
        return
    with whole_file(path) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *kept])
