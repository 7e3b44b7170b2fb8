"""The Triton kernels without a GPU: their numbers in Triton's interpreter, and what the compiler makes of them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from swinkit.errors import InputError
from swinkit.kernels import gpu

HERE = Path(__file__).parent
triton = pytest.importorskip("triton", reason="Triton is not installed")
OLD = tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 7)
NEW_NUMPY = tuple(int(part) for part in numpy.__version__.split(".")[:2]) >= (2, 4)

CASES = (
    ("gpu_cases.py::TestWhole", "gpu_cases.py::TestOperations"),
    ("gpu_cases.py::TestBlocks", "gpu_cases.py::TestLarge", "gpu_model_cases.py", "gpu_layer_cases.py"),
)
"""Half a minute each."""


def run(*command, **environment):
    """What a Python in a fresh process does; Triton reads its environment once, when it is imported."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    return subprocess.run([sys.executable, *command], env=usual | environment, capture_output=True, text=True, cwd=HERE.parent)


def pytest_passes(*cases, **environment):
    # Triton's interpreter before 3.7 makes scalars of arrays with one element.
    quiet = ("-W", "ignore:Conversion of an array with ndim:DeprecationWarning") if OLD else ()
    options = ("-q", "-n", "0", "-p", "no:cacheprovider", "--tb=short", *quiet)
    done = run("-m", "pytest", *options, *(f"tests/{case}" for case in cases), **environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.skipif(OLD and NEW_NUMPY, reason="the interpreter of this Triton does not run with NumPy 2.4")
@pytest.mark.parametrize("cases", CASES, ids=["whole windows", "blocks and models"])
def test_in_the_interpreter(cases):
    pytest_passes(*cases, TRITON_INTERPRET="1")


def test_traced_for_a_gpu():
    pytest_passes("gpu_tracing_cases.py")


@pytest.mark.skipif(OLD, reason="Triton 3.6 spills 80 to 120 bytes on the way back of windows of 7 in bfloat16")
def test_the_compiled_kernels_spill_no_registers(tmp_path):
    """In bfloat16 for both chips and float32 for one; `python tests/gpu_compile.py --all` checks every variant of the models."""
    done = run("tests/gpu_compile.py", TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 44


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ((torch.float64, 32, (7, 7)), "float64"),
        ((torch.float32, 12, (7, 7)), "heads"),
        ((torch.float32, 128, (7, 7)), "heads"),
        ((torch.float32, 32, (7, 25)), "windows"),
        ((torch.float32, 32, (7, 7), 0.1), "dropout"),
        ((torch.float32, 32, (7, 7), 0.0, (7, 0)), "less than their sides"),
    ],
)
def test_what_is_not_taken_is_told_in_a_sentence(call, reason):
    assert reason in gpu.why_not(*call)


@pytest.mark.parametrize("dim", range(8, 65, 8))
def test_heads_of_8_to_64_channels_are_taken(dim):
    assert gpu.why_not(torch.bfloat16, dim, (24, 24)) is None


def test_attend_tells_why_it_does_not_run():
    with pytest.raises(InputError, match="no dropout"):
        gpu.attend(torch.zeros(1, 4, 4, 3, 1, 16), torch.zeros(1, 16, 16), window=(4, 4), shift=(0, 0), scale=1.0, dropout_p=0.5)


def test_nothing_of_triton_is_imported_before_it_is_needed():
    code = (
        "import sys; from swinkit.kernels import gpu; print(gpu.missing()); print('triton' in sys.modules, 'torch._dynamo' in sys.modules)"
    )
    told = run("-c", code).stdout.splitlines()
    assert told[-1] == "False False"
    assert torch.cuda.is_available() or "CUDA" in told[0]
