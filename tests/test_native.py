"""The C++ library by itself: nothing outside a buffer is touched, every instruction set computes the same, and the binaries stay apart."""

import importlib.util
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import setuptools

from swinkit.kernels.cpu import library

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "src" / "swinkit" / "kernels" / "cpu" / "native"
COMPILER = shutil.which("g++")
ARM = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
SANITIZERS = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-DSWK_POISON"]
pytestmark = pytest.mark.skipif(not COMPILER or platform.machine() != "x86_64", reason="needs g++ on an x86-64 machine")


@pytest.fixture(scope="module")
def setup_py():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **_: None)
        spec = importlib.util.spec_from_file_location("setup_py", ROOT / "setup.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def build(setup_py, folder, compiler, options, x86=True):
    """The check program with the library inside."""

    def compile_one(source):
        flags = [*setup_py.COMMON, *setup_py.FLAGS.get(source.stem, []), *options, "-Wextra", "-Werror", f"-I{NATIVE}"]
        subprocess.run([compiler, *flags, "-c", str(source), "-o", str(folder / f"{source.stem}.o")], check=True)
        return str(folder / f"{source.stem}.o")

    sources = [path for path in sorted(NATIVE.glob("*.cpp")) if x86 or path.stem not in setup_py.FLAGS]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, [*sources, *sorted((ROOT / "tests").glob("native_check*.cpp"))]))
    program = folder / "check"
    subprocess.run([compiler, *options, *([] if x86 else ["-static"]), *objects, "-o", str(program), "-pthread"], check=True)
    return program


def sizes(output):
    """(instruction set, dtype, shape) -> mean size of the logits."""
    rows = (line.split() for line in output.splitlines())
    return {(isa, int(dtype), int(shape)): float(value) for isa, dtype, shape, value in rows}


def check_alike(got, wanted):
    """Equal in float32 up to rounding, and in bfloat16 and int8 up to theirs."""
    assert got
    for (isa, dtype, shape), value in got.items():
        assert value == pytest.approx(wanted["baseline", 0, shape], rel=(2e-5, 0.03, 0.06)[dtype]), (isa, dtype, shape)


@pytest.fixture(scope="module")
def sanitized(setup_py, tmp_path_factory):
    return build(setup_py, tmp_path_factory.mktemp("sanitized"), COMPILER, SANITIZERS)


@pytest.fixture(scope="module")
def plain(setup_py, tmp_path_factory):
    return build(setup_py, tmp_path_factory.mktemp("plain"), COMPILER, ["-O1"])


def test_sanitizers_find_nothing_and_every_instruction_set_computes_the_same(sanitized):
    done = subprocess.run([str(sanitized)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    got = sizes(done.stdout)
    assert {isa for isa, _, _ in got} == set(library.instruction_sets())
    check_alike(got, got)


@pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind")
def test_valgrind_finds_nothing(plain):
    isa = "avx2" if "avx2" in library.instruction_sets() else "baseline"
    command = [
        "valgrind",
        "-q",
        "--error-exitcode=9",
        "--leak-check=full",
        "--errors-for-leak-kinds=definite",
        "--show-leak-kinds=definite",
    ]
    done = subprocess.run([*command, str(plain), isa], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not all(ARM), reason="needs g++-aarch64-linux-gnu and qemu-user")
def test_arm64_computes_the_same(setup_py, plain, tmp_path):
    program = build(setup_py, tmp_path, ARM[0], ["-O1"], x86=False)
    emulated = subprocess.run([ARM[1], str(program)], capture_output=True, text=True, check=True)
    here = subprocess.run([str(plain), "baseline"], capture_output=True, text=True, check=True)
    check_alike(sizes(emulated.stdout), sizes(here.stdout))


@pytest.mark.skipif(not library.find(), reason="needs the built library")
def test_the_library_needs_no_python_no_pytorch_and_no_openmp():
    needed = subprocess.run(["objdump", "-p", str(library.find())], capture_output=True, text=True, check=True).stdout
    names = re.findall(r"NEEDED\s+(\S+)", needed)
    assert names
    assert not [name for name in names if re.search("python|torch|omp", name)]


def test_no_instruction_set_lends_its_code_to_another(setup_py, tmp_path):
    """The linker keeps one copy of a weak symbol: it could be one that an older machine cannot run."""
    for stem, flags in setup_py.FLAGS.items():
        compiled = tmp_path / f"{stem}.o"
        subprocess.run([COMPILER, *setup_py.COMMON, *flags, "-c", str(NATIVE / f"{stem}.cpp"), "-o", str(compiled)], check=True)
        symbols = subprocess.run(["nm", "-C", str(compiled)], capture_output=True, text=True, check=True).stdout
        assert not re.findall(r" [WVu] .*", symbols)
