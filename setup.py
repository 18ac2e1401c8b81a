"""The optional compiled loops; everything else stands in setup.cfg."""

import platform

from setuptools import Extension, setup

FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math"]
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS.append("-mprefer-vector-width=512")

setup(
    ext_modules=[
        Extension(
            "n3match.native._kernels",
            sources=["n3match/native/kernels.c"],
            depends=["n3match/native/rows.inc"],
            extra_compile_args=FLAGS,
            optional=True,  # without a compiler the package works all the same
        )
    ]
)
