"""The optional compiled loops; everything else stands in setup.cfg."""

from setuptools import Extension, setup

FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math"]

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
