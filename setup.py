"""Builds the C++ library for CPU inference where there is a compiler for it; swinkit works without, and says why it is slower."""

import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = Path("src/swinkit/kernels/cpu")
NOTE = "not_built.txt"
"""What the installed package reads the reason from."""
COMMON = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-maybe-uninitialized", "-Wno-uninitialized"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]
AVX512_BF16 = [*AVX512, "-mavx512bf16"]
FLAGS = {
    "isa_avx2": ["-mavx2", "-mfma"],
    "isa_avx512": AVX512,
    "isa_avx512_bf16": AVX512_BF16,
    "isa_avx512_vnni": [*AVX512_BF16, "-mavx512vnni"],
}
"""file -> what its instruction set needs; only what the machine has is called at run time, so a library built here runs elsewhere"""


def sources():
    """The C++ files for this machine's kind of processor."""
    files = sorted(path for path in (FOLDER / "native").glob("*.cpp"))
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return [path for path in files if is_x86 or path.stem not in FLAGS]


class BuildNative(build_ext):
    """Compiles each file with the flags of its instruction set, into a plain shared library; a failure is noted and not fatal."""

    def build_extension(self, ext):
        """Build, or note why not."""
        target = Path(self.get_ext_fullpath(ext.name))
        note = target.parent / NOTE
        note.unlink(missing_ok=True)
        for old in target.parent.glob("_native*.so"):
            old.unlink()
        try:
            self._build(target)
        except Exception as error:
            target.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(f"the C++ compiler did not succeed ({' '.join(str(error).split())[:300]}).\n")
            print(f"swinkit: built without its C++ library: {note.read_text()}", file=sys.stderr)

    def _build(self, target):
        if sys.platform == "win32":
            raise RuntimeError("the library is written for g++ and clang++; on Windows use WSL")
        objects = []
        for source in sources():
            flags = [*COMMON, *FLAGS.get(source.stem, [])]
            objects += self.compiler.compile([str(source)], output_dir=self.build_temp, extra_postargs=flags)
        # Linked as C++; the linker of a C extension would leave out libstdc++.
        self.compiler.link_shared_object(objects, str(target), extra_postargs=["-pthread"], target_lang="c++")


headers = [str(path) for path in sorted((FOLDER / "native").glob("*.h"))]
library = Extension("swinkit.kernels.cpu._native", [str(path) for path in sources()], depends=headers, py_limited_api=True, optional=True)
setup(ext_modules=[library], cmdclass={"build_ext": BuildNative}, options={"bdist_wheel": {"py_limited_api": "cp311"}})
