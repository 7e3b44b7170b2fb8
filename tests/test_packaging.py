"""A wheel and an sdist build, hold what they need, and work where nothing else of the project is."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
SMOKE = """
import sys, swinkit
from pathlib import Path
assert Path(swinkit.__file__).is_relative_to(sys.argv[1]), swinkit.__file__
from swinkit.data import open_data
assert len(open_data("fashion-mnist-sample").train) == 5400
assert not sys.argv[4] or swinkit.prepare(swinkit.create_model("swin_pico_patch2_window4_32")).engine.name == "fused"
result = swinkit.train(sys.argv[2], output=sys.argv[3], epochs=1, batch_size=8, model="swin_pico_patch2_window4_32", threads=1)
assert result.report.is_file()
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("needs a git checkout, to build from what is in it and nothing else")
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    return source


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_wheel_holds_code_and_data_and_no_tests(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    package = ROOT / "src" / "swinkit"
    files = (path.relative_to(package) for path in package.rglob("*") if path.is_file())
    left_out = ("__pycache__", "native")
    wanted = {f"swinkit/{path}" for path in files if path.suffix not in (".so", ".txt") and not set(left_out) & set(path.parts)}
    assert wanted <= names
    assert all(name.startswith(("swinkit/", "swinkit-")) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    built_or_noted = {"swinkit/kernels/cpu/_native.abi3.so"} if COMPILER else {"swinkit/kernels/cpu/not_built.txt"}
    assert built_or_noted <= names
    assert not any("/native/" in name for name in names)


def test_without_a_compiler_the_wheel_says_why(source, tmp_path):
    environment = os.environ | {"CC": "no-such-compiler", "CXX": "no-such-compiler"}
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    assert "swinkit/kernels/cpu/_native.abi3.so" not in wheel.namelist()
    assert "no-such-compiler" in wheel.read("swinkit/kernels/cpu/not_built.txt").decode()


def test_sdist_holds_the_package(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/swinkit/model.py", "src/swinkit/py.typed"} <= names
    native = ROOT / "src" / "swinkit" / "kernels" / "cpu" / "native"
    assert {f"src/swinkit/kernels/cpu/native/{path.name}" for path in native.iterdir()} <= names


def test_wheel_works_alone(built, tmp_path, pictures):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(built[0])]
    subprocess.run(install, check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(site)}
    arguments = [str(site), str(pictures), str(tmp_path / "run"), "fused" if COMPILER else ""]
    done = subprocess.run(
        [sys.executable, "-c", SMOKE, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    version = subprocess.run(
        [sys.executable, "-m", "swinkit", "--version"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert version.stdout.strip()
