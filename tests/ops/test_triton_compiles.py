"""The Triton kernels compile for GPUs, and fit; the interpreter would tell of neither."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)

SCRIPT = Path(__file__).parents[1] / "support" / "compiled_for_gpu.py"
KERNELS = {
    "sums_kernel", "values_kernel", "terms_kernel", "query_kernel", "key_kernel", "value_kernel",
    "products_kernel", "nearest_kernel", "weights_kernel", "sums_back_kernel", "gradients_kernel",
}
# Bytes that a program may have on the smallest devices of capability 8 and above.
SHARED = 99 * 1024


def slow(*arguments):
    return pytest.param(*arguments, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("dtype", "capability", "which"),
    [
        ("float32", 90, "once"),
        slow("float32", 80, "all"),
        slow("float32", 90, "all"),
        slow("float32", 100, "all"),
        slow("bfloat16", 80, "all"),
        slow("float16", 90, "all"),
        slow("float64", 80, "all"),
    ],
)
def test_kernels_compile_and_fit(dtype, capability, which, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    run = subprocess.run(
        [sys.executable, str(SCRIPT), dtype, str(capability), which],
        env=environment, capture_output=True, text=True,
    )
    assert run.returncode == 0, run.stderr
    reports = [json.loads(line) for line in run.stdout.splitlines()]
    assert {report["kernel"] for report in reports} == KERNELS
    assert max(report["shared"] for report in reports) <= SHARED
