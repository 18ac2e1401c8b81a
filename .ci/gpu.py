"""All that only a GPU is good for, in one call and within a time limit. Installs nothing.

    python3 .ci/gpu.py OUT --images BSDS_TRAIN_TEST --sets SET12 BSD68 --pairs STORE... \
        --validation STORE --seconds 820

One part after the other, the most valuable first, each with a limit of its own. OUT has few files,
brought up to date every few seconds: report.txt, what every part printed; results.tgz, logs and
tables; and the weights so far.

1. smoke       whether anything works at all; nothing else follows if it doesn't
2. checks      the operator against the formula in float64, sums of 20 000 and of one value too
3. networks    filter and denoiser on the GPU against the CPU, nothing waiting; their times
4. times       the operator against the plain formula as it is, N = 2 000 … 20 000, windows, and
               explicit candidates
5. compiled    and against the compiled formula
6. training    goes on from the shipped weights, all networks side by side, until the time is over;
               then they are evaluated beside the shipped ones: denoisers on --sets, filters on
               --validation, where these are given

Without --images or --pairs their trainings are left out. Where one call may not take that long,
--parts divides them; with the same --work a second call goes on with the trainings that are there.
--device cpu --tiny goes through the same steps on any machine.
"""

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Seconds that a part may take at most.
LIMITS = {"smoke": 60, "checks": 170, "networks": 60, "times": 110, "compiled": 110}
PARTS = (*LIMITS, "training")
EVALUATION = 90  # seconds at the end
EVALUATED_PAIRS = 200  # of --validation
SIZES = (2000, 5000, 10000, 20000)
# The checks' names, by their beginnings; each is a process, since compiling takes longest.
CASES = (
    "dense small", "dense 777", "dense 300", "dense 301", "dense 64", "window small", "window 123",
    "window 50", "window 45", "candidates small", "candidates 777", "candidates 300",
)
ENDLESS = 10**6  # steps: the time limit ends the run, and the running mean of the weights is kept
COMMON = ["--schedule", "constant", "--steps", ENDLESS, "--ema", "0.998", "--seed", "2"]
FILTERS = {"sift": "n3-prune", "sift-cnnet": "cnnet-prune"}
OF_FILTERS = [
    "--mutual-only", "--generated", "0.25", "--hard", "0.5", "--min-matches", "200",
    "--max-matches", "1200", "--geometric-weight", "1", "--rate", "2e-4", "--warmup", "100",
]
LEVELS = (5, 10, 15, 25, 50, 75)
# σ of the evaluation; options. Of a range, batch norms keep what they remember: see the docs.
DENOISERS = {
    "n3net-25": ((25,), ["--sigma", 25]),
    "n3net": (LEVELS, ["--sigma", 0, 75, "--frozen-steps", ENDLESS]),
}
OF_DENOISERS = [
    "--rate", "2e-4", "--warmup", "100", "--momentum", "0.02", "--clip", "100", "--precision",
    "bfloat16",
]


class Session:
    def __init__(self, arguments: argparse.Namespace, folder: Path):
        self.arguments = arguments
        self.out = arguments.out
        self.end = time.monotonic() + arguments.seconds
        self.runs, self.texts = folder / "runs", folder / "texts"
        for part in (self.runs, self.texts):
            part.mkdir(exist_ok=True)
        self.parts: list[str] = []
        self.done = threading.Event()
        # As installed: `python -m` in the checkout would find the library without its pipelines.
        self.site = folder / "site"
        shutil.rmtree(self.site, ignore_errors=True)
        shutil.copytree(ROOT / "n3match", self.site / "n3match")
        for part in ("datasets", "pipelines"):
            shutil.copytree(ROOT / part, self.site / "n3match" / part)
        about = self.site / "n3match-0.dist-info" / "METADATA"
        about.parent.mkdir()
        about.write_text("Metadata-Version: 2.1\nName: n3match\nVersion: 0\n")
        self.environment = os.environ | {
            "PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "2", "PYTHONUNBUFFERED": "1",
        }

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def say(self, *words) -> None:
        print(f"[{self.left:.0f} s left]", *words, flush=True)

    def call(self, name: str, seconds: float, *words) -> bool:
        """Whether a command of n3match ended well within its time."""
        self.parts.append(name)
        command = [sys.executable, "-m", "n3match.pipelines.cli", *map(str, words)]
        began = time.monotonic()
        with (self.texts / f"{name}.txt").open("a") as text:
            process = subprocess.Popen(
                command, stdout=text, stderr=subprocess.STDOUT, env=self.environment, cwd=self.site
            )
            try:
                status = process.wait(max(0.0, seconds))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                status = "out of time"
        self.say(name, status, f"{time.monotonic() - began:.0f} s")
        return status == 0

    def together(self, tasks: list[Callable[[], object]]) -> None:
        threads = [threading.Thread(target=task, daemon=True) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def benchmark(self, name: str, *words) -> bool:
        limit = min(LIMITS[name.partition("-")[0]], self.left)
        return self.call(name, limit, "benchmark", *words)

    def run(self) -> int:
        keeper = threading.Thread(target=self.keep_out_up_to_date, daemon=True)
        keeper.start()
        try:
            return self.all_parts()
        finally:
            self.done.set()
            keeper.join()

    def all_parts(self) -> int:
        arguments = self.arguments
        sizes = (40,) if arguments.tiny else SIZES
        sides = (25,) if arguments.tiny else (512,)
        repeats = ["--repeats", 1 if arguments.tiny else 5]
        none = ["--sizes", "--images", "--candidates"]
        timed = ["gpu", *repeats, "--cases", "no", "--sizes", *sizes]
        others = ["--images", *sides, "--candidates", sizes[0], sizes[-1], "--eager"]
        networks = [
            "gpu-networks", "--device", arguments.device, *repeats, "--sizes", sizes[0],
            "--images", *sides,
        ]
        # Compiles what is timed later, which its own process then finds done.
        warm = ["gpu", "--sizes", sizes[0], "--images", *sides, "--candidates", sizes[0]]
        warm += ["--repeats", 1, "--eager"]
        checks = [("checks-warm", [*warm, "--cases", "no"])]
        checks += [(f"checks-{i}", ["gpu", *none, "--cases", c]) for i, c in enumerate(CASES)]
        for part in arguments.parts:
            if part == "smoke":
                smoke = self.benchmark(part, "gpu", *none, "--cases", "dense small")
                if not smoke and arguments.device == "cuda":
                    self.say((self.texts / "smoke.txt").read_text()[-2000:])
                    return 1
            elif part == "checks":
                self.together([lambda n=n, w=w: self.benchmark(n, *w) for n, w in checks])
            elif part == "networks":
                self.benchmark(part, *networks)
            elif part == "times":
                self.benchmark(part, *timed, *others)
            elif part == "compiled":  # of the dense form: windows take minutes to compile
                self.benchmark(part, *timed, *none[1:])
            else:
                stop_sharing = self.share_the_gpu() if arguments.device == "cuda" else lambda: None
                self.together(self.trainings())
                trained = [name for name in (*DENOISERS, *FILTERS) if self.weights(name)]
                self.together([lambda n=n: self.evaluate(n) for n in trained])
                stop_sharing()
        return 0

    def share_the_gpu(self) -> Callable[[], object]:
        """Starts NVIDIA's service that lets processes run at the same time, where it is there.

        Returns:
            What stops it.
        """
        pipes = self.site.parent / "mps"
        pipes.mkdir(exist_ok=True)
        shared = {"CUDA_MPS_PIPE_DIRECTORY": str(pipes), "CUDA_MPS_LOG_DIRECTORY": str(pipes)}
        control = shutil.which("nvidia-cuda-mps-control")
        environment = os.environ | shared
        if not control or subprocess.run([control, "-d"], env=environment).returncode:
            return lambda: None
        self.environment |= shared
        return lambda: subprocess.run([control], input=b"quit\n", env=environment)

    def trainings(self) -> list[Callable[[], object]]:
        """Each until EVALUATION seconds before the end."""
        arguments = self.arguments
        often = ["--save-every", 2 if arguments.tiny else 50, "--device", arguments.device]
        words = {}
        if arguments.pairs:
            data = ["--pairs", *arguments.pairs, "--batch", 2 if arguments.tiny else 32]
            if arguments.validation:
                # The first one writes the first weights.
                data += ["--validation", *arguments.validation]
                data += ["--validate-every", 10 if arguments.tiny else 300]
            for name, network in FILTERS.items():
                words[name] = ["train-filter", "--network", network, *OF_FILTERS, *data]
        if arguments.images:
            crops = ["--crops", "24x1" if arguments.tiny else "120x14"]
            for name, (_, options) in DENOISERS.items():
                words[name] = [
                    "train-denoiser", "--images", arguments.images, *options, *OF_DENOISERS, *crops
                ]
        seconds = self.left - EVALUATION

        def task(name: str) -> Callable[[], object]:
            command, *rest = words[name]
            given = [command, self.runs / name, "--initial", name, *rest, *COMMON, *often]
            return lambda: self.call(f"train-{name}", seconds, *given)

        return [task(name) for name in words]

    def weights(self, name: str) -> Path | None:
        kind = "filter" if name in FILTERS else "denoiser"
        path = self.runs / name / f"{kind}.safetensors"
        return path if path.exists() else None

    def keep_out_up_to_date(self) -> None:
        while True:
            over = self.done.wait(10)
            texts = [self.texts / f"{name}.txt" for name in dict.fromkeys(self.parts)]
            report = "\n".join(f"== {p.stem}\n{p.read_text()}" for p in texts if p.exists())
            (self.out / "report.txt").write_text(report)
            for name in (*FILTERS, *DENOISERS):
                path = self.weights(name)
                if path is not None:
                    shutil.copy(path, self.out / path.with_stem(name).name)
            self.keep_results()
            if over:
                break

    def keep_results(self) -> None:
        """Logs and tables as they are by now; whole at any time."""
        part = self.out / "results.part"
        # What is replaced or removed just now, the next time has; the last time nothing is.
        paths: list[Path] = []
        with contextlib.suppress(FileNotFoundError):
            paths.extend(p for p in self.runs.rglob("*") if p.suffix in (".csv", ".md"))
        with tarfile.open(part, "w:gz") as archive:
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    text = path.read_bytes()  # which may grow meanwhile
                    entry = tarfile.TarInfo(str(path.relative_to(self.runs)))
                    entry.size = len(text)
                    archive.addfile(entry, io.BytesIO(text))
        part.replace(self.out / "results.tgz")

    def evaluate(self, name: str) -> None:
        """The new weights beside the shipped ones, to be shipped only if they are better."""
        new = f"new={self.weights(name)}"
        if name in DENOISERS and self.arguments.sets:
            sigmas, _ = DENOISERS[name]
            words = ["evaluate-denoise", *self.arguments.sets, "--sigma", *sigmas]
            words += ["--weights", name, new, "--methods", "noisy"]
        elif name in FILTERS and self.arguments.validation:
            words = ["evaluate-pose", *self.arguments.validation, "--filters", name, new]
            words += ["--against", name, "--estimators", "opencv_ransac"]
            words += ["--limit", 2 if self.arguments.tiny else EVALUATED_PAIRS]
        else:
            return
        where = ["--device", self.arguments.device, "--out", self.runs / f"evaluate-{name}"]
        self.call(f"evaluate-{name}", self.left, *words, *where)


def main() -> int:
    def path(text: str) -> Path:
        return Path(text).resolve()

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=path)
    parser.add_argument("--images", type=path, help="folder of clean images")
    parser.add_argument("--sets", type=path, nargs="*", default=[], help="of the evaluation")
    parser.add_argument("--pairs", type=path, nargs="*", default=[], metavar="STORE[:WEIGHT]")
    parser.add_argument("--validation", type=path, nargs="*", default=[], metavar="STORE")
    parser.add_argument("--work", type=path, metavar="DIR", help="where the runs are kept")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--seconds", type=float, default=820, help="of all together")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, to try the script")
    arguments = parser.parse_args()
    if arguments.images and not arguments.sets:
        parser.error("--sets: what the denoisers are evaluated on, none given")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.work is not None:
        arguments.work.mkdir(parents=True, exist_ok=True)
        return Session(arguments, arguments.work).run()
    with tempfile.TemporaryDirectory() as folder:
        return Session(arguments, Path(folder)).run()


if __name__ == "__main__":
    sys.exit(main())
