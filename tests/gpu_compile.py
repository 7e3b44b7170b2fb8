"""Compiles the Triton kernels for a GPU that is not there and reads what they use from the cubin.

python tests/gpu_compile.py             the variants that the tests check
python tests/gpu_compile.py --all       every variant of Swin-T, Swin-B and V2-T with windows of 8, 16 and 24 (minutes)
"""

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from swinkit.kernels.gpu import blocks, mlp, plan, whole

TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
SHARED = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that one program can have."""
A_FEW = 16
"""Bytes per thread that some of all variants spill: two to four values that stay the same from window to window."""
NUMBERS = ("windows", "per", "H", "W", "shift_y", "shift_x")
IN_THE_DTYPE_OF_QKV = ("grad", "qkv", "out", "qkv_grad", "pad")
WINDOWS = {(7, 7): False, (8, 8): True, (16, 16): True, (24, 24): True}
"""Window -> whether the models that have it are V2."""


@dataclass(frozen=True)
class Variant:
    kernel: str
    window: tuple[int, int]
    dtype: torch.dtype
    chip: int
    shifted: bool = True
    padded: bool = False
    dim: int = 32
    factor: str = "fp32"
    """The type of a number: torch.compile passes fp64."""

    def __str__(self):
        marks = ("-shifted" if self.shifted else "") + ("-padded" if self.padded else "")
        marks += "-fp64" if self.factor == "fp64" else ""
        return f"{self.kernel}-w{self.window[0]}-d{self.dim}-{TYPES[self.dtype]}-sm{self.chip}{marks}"

    @property
    def call(self):
        extra, shift = int(self.padded), self.window[0] // 2 * self.shifted
        return plan.Call(2, 2 * self.window[0] + extra, 2 * self.window[1] + extra, 6, self.dim, self.window, (shift, shift))

    def compiled(self):
        """What Triton makes of it."""
        kernel = getattr(whole if self.call.whole else blocks, self.kernel)
        launch = plan.launch(self.kernel, self.call, self.dtype, self.chip // 10)
        flags = self.call.flags(WINDOWS[self.window], WINDOWS[self.window]) | launch.sizes | {"BIAS": True}
        types = dict.fromkeys(NUMBERS, "i32") | {"factor": self.factor}
        types |= dict.fromkeys(IN_THE_DTYPE_OF_QKV, "*" + TYPES[self.dtype])
        return made(kernel, flags, types, launch, self.chip)


@dataclass(frozen=True)
class Product:
    """A kernel of an MLP with hidden channels four times as many."""

    kernel: str
    channels: int
    chip: int
    dtype: torch.dtype = torch.bfloat16

    def __str__(self):
        return f"{self.kernel}-c{self.channels}-{TYPES[self.dtype]}-sm{self.chip}"

    def compiled(self):
        """What Triton makes of it."""
        launch = plan.tiles(self.kernel, self.channels)
        flags = launch.sizes | {"C": self.channels, "F": 4 * self.channels, "KEEP": True}
        kernel = getattr(mlp, self.kernel)
        types = dict.fromkeys(kernel.arg_names, "*" + TYPES[self.dtype]) | {"M": "i32", "bias_grad": "*fp32"}
        return made(kernel, flags, types, launch, self.chip)


def made(kernel, flags, types, launch, chip):
    """What Triton makes of a kernel with these flags; what has no type points to float32."""
    flags = {name: value for name, value in flags.items() if name in kernel.arg_names}
    types = {name: types.get(name, "*fp32") for name in kernel.arg_names if name not in flags}
    aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(kernel.arg_names) if types.get(name, "").startswith("*")}
    source = ASTSource(kernel, {name: types.get(name, "constexpr") for name in kernel.arg_names}, flags, aligned)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    return triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options)


@dataclass(frozen=True)
class Use:
    registers: int
    stack: int
    local: int
    shared: int


def use(variant):
    """Registers per thread, bytes of stack and local memory (spills) and of shared memory."""
    binary = variant.compiled()
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(binary.asm["cubin"])
        told = subprocess.run([triton.knobs.nvidia.cuobjdump.path, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    numbers = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", told)}
    return Use(numbers["REG"], numbers["STACK"], numbers["LOCAL"], binary.metadata.shared)


def kernels_of(window):
    return ("forward", "backward") if window[0] * window[1] <= plan.WHOLE else ("forward", "queries", "keys", "pairs")


def variants(everything=False):
    """The shifted variants in bfloat16 on both chips, the largest in float32, what torch.compile makes of one, and MLPs; or all."""
    products = [Product(kernel, channels, chip) for kernel in plan.TILES for channels in (96, 128, 192, 384, 1024) for chip in (80, 90)]
    if everything:
        options = product(WINDOWS, (torch.bfloat16, torch.float16, torch.float32), (80, 90), (True, False))
        every = [Variant(kernel, window, dtype, chip, shifted) for window, dtype, chip, shifted in options for kernel in kernels_of(window)]
        return every + products
    half = [
        Variant(kernel, window, torch.bfloat16, chip) for window in list(WINDOWS)[:3] for chip in (80, 90) for kernel in kernels_of(window)
    ]
    single = [Variant(kernel, window, torch.float32, 90) for window in ((7, 7), (16, 16)) for kernel in kernels_of(window)]
    wide = [Variant(kernel, (7, 7), torch.bfloat16, 90, factor="fp64") for kernel in kernels_of((7, 7))]
    return [*half, *single, *wide, *products]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    everything = parser.parse_args().all
    failed = 0
    for variant in variants(everything):
        used = use(variant)
        failed += used.stack + used.local > (A_FEW if everything else 0) or used.shared > SHARED[variant.chip]
        print(f"{variant!s:44} registers {used.registers:3}  spilled {used.stack + used.local:4}  shared {used.shared:6}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
