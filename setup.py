"""The optional compiled loops; everything else stands in setup.cfg."""

from glob import glob

from setuptools import Extension, setup

FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math"]

setup(
    ext_modules=[
        Extension(
            "n3match.native._kernels",
            sources=["n3match/native/kernels.c"],
            depends=sorted(glob("n3match/native/*.inc")),
            extra_compile_args=FLAGS,
            optional=True,  # without a compiler the package works all the same
        )
    ]
)
