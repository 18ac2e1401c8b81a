"""The packages, which lie in three folders, and the compiled loops; all else: setup.cfg."""

from glob import glob

from setuptools import Extension, find_packages, setup

FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math"]

# Where each top package lies; folders with an __init__ in them are packages below it.
ROOTS = {"n3match": "n3match", "n3match.datasets": "datasets", "n3match.pipelines": "pipelines"}

setup(
    package_dir=ROOTS,
    packages=[
        package
        for name, folder in ROOTS.items()
        for package in (name, *(f"{name}.{below}" for below in find_packages(folder)))
    ],
    ext_modules=[
        Extension(
            "n3match.native._kernels",
            sources=["n3match/native/csrc/kernels.c"],
            depends=sorted(glob("n3match/native/csrc/*.inc")),
            extra_compile_args=FLAGS,
            optional=True,  # without a compiler the package works all the same
            py_limited_api=True,  # loaded by ctypes: no Python's own, one wheel for all of them
        )
    ]
)
