"""Builds the sdist and the wheel, and tries the wheel where there is neither checkout nor compiler.

    python .ci/wheel.py [OUT] [--borrow]

The sdist is built from the checkout, the wheel from the sdist: what it lacks, the wheel lacks. With
`auditwheel` (and `patchelf`) on the PATH a Linux wheel gets the tag that a package index wants.
`twine upload OUT/*` would be the next step. Needs `build`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IN_SDIST = (
    "n3match/native/csrc/kernels.c", "n3match/native/csrc/types.inc", "setup.py", "LICENSE",
    "n3match/weights/sift.safetensors", "datasets/images.py", "pipelines/demo_data/pair.json",
)
IN_WHEEL = (
    "n3match/weights/sift.safetensors", "n3match/weights/sift.md", "n3match/py.typed",
    "n3match/pipelines/demo_data/pair.json", "n3match/datasets/images.py",
)
TRIAL = """
import n3match, n3match.native as native, n3match.pipelines as pipelines
print(n3match.__file__, *pipelines.__path__, sep="\\n")
assert native.available(), "the compiled loops don't load"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "dist")
    parser.add_argument(
        "--borrow", action="store_true",
        help="build and try with the packages of this environment, and download nothing",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        sdist, wheel = build(temporary / "dist", arguments.borrow)
        check_sdist(sdist)
        check_wheel(wheel)
        wheel = repaired(wheel, temporary / "repaired")
        try_wheel(wheel, temporary, arguments.borrow)
        arguments.out.mkdir(parents=True, exist_ok=True)
        for path in (sdist, wheel):
            shutil.copy(path, arguments.out)
            print(f"written    {arguments.out / path.name}")


def build(out: Path, borrow: bool) -> tuple[Path, Path]:
    """The sdist, and the wheel made from it."""
    # A copy: build folders of the checkout must not slip in, nor be left behind.
    source = out.parent / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(source)]
    subprocess.run(command + ["--no-isolation"] * borrow, check=True)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def check_sdist(path: Path) -> None:
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    _check(path, IN_SDIST, names)


def check_wheel(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    _check(path, IN_WHEEL, names)
    if not any(name.startswith("n3match/native/_kernels") for name in names):
        raise SystemExit(f"{path.name}: lacks the compiled loops; is there a C compiler?")
    strangers = {name.split("/")[0] for name in names if ".dist-info" not in name} - {"n3match"}
    if strangers:
        raise SystemExit(f"{path.name}: installs {sorted(strangers)} beside n3match")


def _check(path: Path, wanted: tuple[str, ...], names: set[str]) -> None:
    missing = sorted(set(wanted) - names)
    if missing:
        raise SystemExit(f"{path.name}: lacks {', '.join(missing)}")


def repaired(wheel: Path, out: Path) -> Path:
    """The wheel with a tag for all Linux systems that it runs on, where auditwheel is there."""
    if not sys.platform.startswith("linux"):
        return wheel
    if shutil.which("auditwheel") is None:
        print(f"note       no auditwheel: an index won't take {wheel.name}")
        return wheel
    subprocess.run(["auditwheel", "repair", "-w", str(out), str(wheel)], check=True)
    (found,) = out.glob("*.whl")
    return found


def try_wheel(wheel: Path, temporary: Path, borrow: bool) -> None:
    """Installs it into a new environment, from which no compiler is seen, and runs the demo."""
    home = temporary / "environment"
    venv.create(home, with_pip=not borrow)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / Path(sys.executable).name
    pip = [str(python), "-m", "pip"]
    if borrow:
        pip = [sys.executable, "-m", "pip", "--python", str(python)]
    install = ["install", "-q", *["--no-deps"] * borrow, str(wheel)]
    # No compiler: neither by its name nor on the path.
    environment = {**os.environ, "CC": "false", "PATH": str(scripts)}
    environment.pop("PYTHONPATH", None)
    if borrow:  # as a path, on which .pth files aren't read: an editable install stays out
        paths = [p for p in sys.path if p.endswith("site-packages")] or [
            sysconfig.get_path("purelib")
        ]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    run = {"cwd": elsewhere, "env": environment, "check": True}
    subprocess.run([*pip, *install], **run)
    found = subprocess.run(
        [str(python), "-c", TRIAL], stdout=subprocess.PIPE, text=True, **run
    ).stdout.split()
    if not all(Path(path).resolve().is_relative_to(home.resolve()) for path in found):
        raise SystemExit(f"{wheel.name}: tried {found}, wanted what was installed from it")
    subprocess.run([str(scripts / "n3match"), "demo", "--out", "demo.png"], **run)
    if not (elsewhere / "demo.png").stat().st_size:
        raise SystemExit(f"{wheel.name}: the demo drew nothing")


if __name__ == "__main__":
    main()
