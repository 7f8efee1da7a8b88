"""Build of the native kernels: one shared library, plain C interface, neither Python nor torch linked in.

The kernels are compiled once for each instruction set; the library picks one when it is loaded. Where they cannot be
compiled the installation goes on without them, and ``anipot doctor`` says why. All else stands in pyproject.toml.
"""

import os
import platform
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("anipot", "csrc")
FLAGS = ["-std=gnu++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-g0"]
#: The kernels say themselves what is a vector; GCC's own attempts take their registers apart.
FLAGS += ["-fno-tree-vectorize"]
X86 = platform.machine().lower() in ("x86_64", "amd64")
#: Name, bytes of a vector, flags.
INSTRUCTION_SETS = [("baseline", 16, [])]
if X86:
    INSTRUCTION_SETS += [
        ("avx2", 32, ["-mavx2", "-mfma", "-mtune=haswell"]),
        (
            "avx512",
            64,
            ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mavx2", "-mfma", "-mprefer-vector-width=512"],
        ),
    ]


class BuildKernels(build_ext):
    """Compile and link the library, or leave a note that says why there is none."""

    def get_ext_filename(self, fullname: str) -> str:
        # The library belongs to no Python version.
        return str(Path(*fullname.split("."))) + (".dylib" if sys.platform == "darwin" else ".so")

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        note = target.with_suffix(".txt")
        note.unlink(missing_ok=True)
        try:
            if os.environ.get("ANIPOT_NO_KERNELS", "0") not in ("", "0"):
                raise RuntimeError("ANIPOT_NO_KERNELS was set at installation")
            self._build(target)
        except Exception as error:
            target.unlink(missing_ok=True)
            note.write_text(f"{type(error).__name__}: {error}\n")
            print(f"warning: anipot is installed without native kernels: {error}", file=sys.stderr)

    def copy_extensions_to_source(self) -> None:
        """For an editable installation: the library if there is one, else the note."""
        command = self.get_finalized_command("build_py")
        folder = Path(command.get_package_dir("anipot.kernels"))
        for ext in self.extensions:
            target = Path(self.build_lib, self.get_ext_filename(ext.name))
            for built in (target, target.with_suffix(".txt")):
                (folder / built.name).unlink(missing_ok=True)
                if built.is_file():
                    self.copy_file(str(built), str(folder / built.name))

    def _build(self, target: Path) -> None:
        extra = os.environ.get("ANIPOT_KERNEL_FLAGS", "").split()
        with tempfile.TemporaryDirectory() as scratch:
            jobs = [
                ("kernels.cpp", name, [("ANIPOT_ISA", name), ("ANIPOT_BYTES", str(width))], flags)
                for name, width, flags in INSTRUCTION_SETS
            ]
            macros = [("ANIPOT_X86", "1")] if X86 else []
            jobs += [(source, "common", macros, []) for source in ("interface.cpp", "pool.cpp")]

            def compile_(job: tuple[str, str, list[tuple[str, str]], list[str]]) -> list[str]:
                source, folder, macros, flags = job
                return self.compiler.compile(
                    [str(SOURCES / source)],
                    output_dir=str(Path(scratch, folder)),
                    macros=macros,
                    extra_postargs=FLAGS + flags + extra,
                )

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = [name for names in pool.map(compile_, jobs) for name in names]
            self.compiler.link_shared_object(
                objects, str(target), extra_postargs=["-pthread", *extra], target_lang="c++"
            )


class PlatformWheel(bdist_wheel):
    """One wheel for all Python versions of a platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("anipot.kernels._native", [], language="c++")],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
)
