"""All that only a GPU is good for, in one call and within a time limit. Installs nothing.

    python3 .ci/gpu.py OUT --images BSDS_TRAIN_TEST --sets SET12 BSD68 --seconds 540

The kernels' checks and times (`benchmark gpu`), then trainings side by side, each too small to keep
a GPU busy: denoisers to ship with DnCNNs beside them, and every row of the published ablation with
the same budget. What is done when the time is over is in OUT: benchmark.md, evaluations and logs in
results.tgz, weights of the former, and the states of those that weren't finished, from which
`n3match train-denoiser` goes on with the images (and, in a second stage, the weights of the first)
at the same path. A second call with the same --work, --images and --scale goes on by itself. A
first run of two steps tells whether anything works at all.
"""

import argparse
import os
import queue
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
COMMON = ["--rate", "2e-3", "--momentum", "0.05", "--clip", "100", "--precision", "bfloat16"]
LEVELS = [5, 10, 15, 25, 50, 75]
RANGE = ["--sigma", "0", "75"]
# To ship, and what they are compared with.
# Name: (σ of the evaluation, steps, steps of the local networks alone, other options).
SHIPPED = {
    "n3net-25": ([25], 7000, 2000, ["--sigma", "25"]),
    "n3net": (LEVELS, 5500, 1500, RANGE),
    "dncnn-17-25": ([25], 7000, 0, ["--sigma", "25", "--network", "dncnn-17"]),
    "dncnn-17": (LEVELS, 5500, 0, [*RANGE, "--network", "dncnn-17"]),
}
ABLATION = [
    (network, seed)
    for seed, networks in (
        (0, ("dncnn-17", "n3net", "concrete", "knn-input", "n3net-2", "dncnn-18", "knn-denoised")),
        (1, ("n3net", "dncnn-17", "concrete", "knn-denoised")),
        (2, ("n3net", "dncnn-17", "concrete", "knn-denoised")),
    )
    for network in networks
]
ABLATION_STEPS, ABLATION_LOCAL_STEPS = 1500, 500


class Session:
    def __init__(self, arguments: argparse.Namespace, folder: Path):
        self.arguments = arguments
        self.end = time.monotonic() + arguments.seconds
        self.runs = folder / "runs"
        self.runs.mkdir(exist_ok=True)
        # As installed: `python -m` in the checkout would find the library without its pipelines.
        self.site = folder / "site"
        shutil.rmtree(self.site, ignore_errors=True)
        shutil.copytree(ROOT / "n3match", self.site / "n3match")
        for part in ("datasets", "pipelines"):
            shutil.copytree(ROOT / part, self.site / "n3match" / part)
        about = self.site / "n3match-0.dist-info" / "METADATA"
        about.parent.mkdir()
        about.write_text("Metadata-Version: 2.1\nName: n3match\nVersion: 0\n")
        self.environment = os.environ | {"PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "2"}
        self.processes: list[subprocess.Popen] = []
        self.starting = threading.Lock()
        self.over = False

    def say(self, *words) -> None:
        print(f"[{self.end - time.monotonic():.0f} s left]", *words, flush=True)

    def call(self, name: str, module: str, *words, seconds: float | None = None) -> bool:
        """Whether the module's command ended well; what it says goes to files of that name."""
        command = [sys.executable, "-m", f"n3match.pipelines.{module}", *map(str, words)]
        began = time.monotonic()
        with (
            (self.runs / f"{name}.out").open("a") as out,
            (self.runs / f"{name}.err").open("a") as err,
        ):
            with self.starting:
                if self.over:
                    return False
                process = subprocess.Popen(
                    command, stdout=out, stderr=err, env=self.environment, cwd=self.site
                )
                self.processes.append(process)
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                status = "out of time"
        self.say(name, status, f"{time.monotonic() - began:.0f} s")
        if status:
            self.say((self.runs / f"{name}.err").read_text()[-500:])
        return status == 0

    def steps(self, count: int) -> int:
        return max(2, round(count * self.arguments.scale))

    def train(self, name: str, steps: int, local: int, *words, seconds=None) -> bool:
        return self.call(
            name, "cli", "train-denoiser", self.runs / name, "--images", self.arguments.images,
            *COMMON, "--steps", self.steps(steps), "--local-steps", self.steps(local) * bool(local),
            "--warmup", self.steps(200), *words, seconds=seconds,
        )

    def evaluate(self, name: str, sigmas) -> None:
        if (self.runs / f"eval-{name}" / "report.md").exists():
            return
        done = self.call(
            f"eval-{name}", "cli", "evaluate-denoise", *self.arguments.sets, "--sigma", *sigmas,
            "--weights", f"{name}={self.weights(name)}", "--methods", "noisy",
            "--device", self.arguments.device, "--out", self.runs / f"eval-{name}",
        )
        if done:
            text = (self.runs / f"eval-{name}.out").read_text()
            self.say(*(line for line in text.splitlines() if line.startswith(f"| {name} ")))

    def weights(self, name: str) -> Path:
        return self.runs / name / "denoiser.safetensors"

    def ship(self, name: str) -> None:
        sigmas, steps, local, words = SHIPPED[name]
        crops = ["--crops", "80x32", f"120x14@{self.steps(steps * 0.8)}", "--ema", "0.998"]
        trained = name if len(sigmas) == 1 else f"{name}-start"
        done = self.train(trained, steps, local, *words, *crops, "--save-every", self.steps(250))
        if done and trained != name:
            # Of a range: an image has one level throughout, a batch of crops has not.
            done = self.train(
                name, 400, 0, *words, "--initial", self.weights(trained),
                "--crops", "80x32", "--ema", "0.99", "--rate", "5e-4", "--frozen-steps",
                self.steps(400), "--warmup", self.steps(20),
            )
        if done:
            self.evaluate(name, sigmas)

    def rows(self, todo: queue.Queue, guide_done: threading.Event) -> None:
        """Rows of the ablation, as long as there are any."""
        while not self.over:
            try:
                network, seed = todo.get_nowait()
            except queue.Empty:
                return
            name = f"ablation-{network}-{seed}"
            words = ["--network", network, "--seed", seed, "--sigma", 25, "--crops", "80x12"]
            if network == "knn-denoised":
                guide_done.wait()
                words += ["--guide", self.weights("ablation-dncnn-17-0")]
            local = 0 if network.startswith("dncnn") else ABLATION_LOCAL_STEPS
            if self.train(name, ABLATION_STEPS, local, *words, "--ema", 0.99):
                self.evaluate(name, [25])
            if name == "ablation-dncnn-17-0":
                guide_done.set()  # without weights the waiting rows fail by themselves

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

    def run(self) -> int:
        arguments = self.arguments
        shutil.rmtree(self.runs / "smoke", ignore_errors=True)
        if not self.train("smoke", 0, 0, "--crops", "20x2", "--sigma", "25", seconds=100):
            return 1
        if arguments.benchmark and not (self.runs / "benchmark.out").exists():
            self.call(
                "benchmark", "cli", "benchmark", "gpu", "--sizes", 2000, 10000, "--repeats", 5,
                "--out", self.runs, *(["--eager"] * arguments.eager), seconds=arguments.benchmark,
            )
        stop_sharing = self.share_the_gpu() if arguments.device == "cuda" else lambda: None
        todo, guide_done = queue.Queue(), threading.Event()
        for row in ABLATION:
            todo.put(row)
        threads = [threading.Thread(target=self.ship, args=(n,), daemon=True) for n in SHIPPED]
        threads += [
            threading.Thread(target=self.rows, args=(todo, guide_done), daemon=True)
            for _ in range(arguments.rows)
        ]
        for thread in threads:
            thread.start()
        while any(t.is_alive() for t in threads) and time.monotonic() < self.end:
            time.sleep(1)
        with self.starting:
            self.over = True
        for process in self.processes:
            process.kill()
        guide_done.set()
        for thread in threads:
            thread.join(10)
        stop_sharing()
        self.collect()
        return 0

    def collect(self) -> None:
        out = self.arguments.out
        if (self.runs / "benchmark.out").exists():
            shutil.copy(self.runs / "benchmark.out", out / "benchmark.md")
        for name in SHIPPED:
            if self.weights(name).exists():
                shutil.copy(self.weights(name), out / f"{name}.safetensors")
            # Of two stages the first: the second is short, and starts from its weights.
            for run in (f"{name}-start", name):
                state = self.runs / run / "state.pt"
                if state.exists() and not (self.runs / f"eval-{name}").exists():
                    shutil.copy(state, out / f"{run}-state.pt")
                    break
        with tarfile.open(out / "results.tgz", "w:gz") as archive:
            for path in self.runs.rglob("*"):
                if path.suffix in (".csv", ".md", ".out", ".err"):
                    archive.add(path, path.relative_to(self.runs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=lambda text: Path(text).resolve())
    parser.add_argument("--images", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--sets", type=lambda text: Path(text).resolve(), nargs="+", required=True)
    parser.add_argument(
        "--work", type=lambda text: Path(text).resolve(), metavar="DIR",
        help="keep the runs there, and go on with those that are there",
    )
    parser.add_argument("--seconds", type=float, default=540, help="of all together")
    parser.add_argument("--benchmark", type=float, default=100, help="seconds of these; 0: none")
    parser.add_argument("--eager", action="store_true", help="baselines that aren't compiled")
    parser.add_argument("--rows", type=int, default=6, help="rows of the ablation side by side")
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of steps")
    parser.add_argument("--device", default="cuda", help="of the evaluations")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.work is not None:
        arguments.work.mkdir(parents=True, exist_ok=True)
        return Session(arguments, arguments.work).run()
    with tempfile.TemporaryDirectory() as folder:
        return Session(arguments, Path(folder)).run()


if __name__ == "__main__":
    sys.exit(main())
