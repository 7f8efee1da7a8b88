"""Everything that wants a GPU, in one command, on a machine that is there for some minutes and has no network.

    python tools/gpu_session.py prepare FOLDER                    # where there is a network and $ANIPOT_SHARED
    python tools/gpu_session.py run --data FOLDER --output FOLDER [--seconds 570] [--stages NAME,...] [-- OPTIONS]

``prepare`` writes archives of data and wheels, which are copied beside the repository. ``run`` unpacks them and goes
through its stages: environment, small, cuaev, tests, references, kernels, benchmark, sanitizer. Each writes a file into
``--output`` as it goes, has a time of its own, and does not stand in the way of the next when it fails. OPTIONS are
those of tools/benchmark.py. The machine needs Python 3.11 or later with a CUDA build of torch, pytest, h5py and
safetensors; for epochs of training lightning; for cuAEV nvcc, a C++ compiler and ninja. Ends with exit code 1 if a
stage failed that tells right from wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_payload import ROOT, prepare, unpack

TOOLS = Path(__file__).resolve().parent
#: Seconds that each stage may take; the benchmark has what the others leave.
SECONDS = {
    "environment": 90.0,
    "small": 60.0,
    "cuaev": 240.0,
    "tests": 200.0,
    "references": 60.0,
    "kernels": 60.0,
    "benchmark": float("inf"),
    "sanitizer": 90.0,
}
STAGES = tuple(SECONDS)
DOCTOR = "import sys; from anipot.cli import main; sys.exit(main(['doctor']))"
#: Kept for writing at the end, and what a process has for its last words.
RESERVE, GRACE = 8.0, 6.0


class Session:
    """Stages that share an environment, a folder for results and an end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.end_at = options, time.monotonic() + options.seconds
        self.output: Path = options.output
        self.output.mkdir(parents=True, exist_ok=True)
        self.work = Path(options.work)
        self.report: dict[str, Any] = {"archives": unpack(options.data, self.work), "stages": {}}
        self.environment = os.environ | self._variables()
        #: The build of cuAEV, and until when it may go on.
        self.background: subprocess.Popen[bytes] | None = None
        self.built_until = 0.0

    def _variables(self) -> dict[str, str]:
        # An environment that has torch already is looked at after the checkout and the wheels.
        paths = [str(ROOT), str(self.work / "site"), os.environ.get("PYTHONPATH", "")]
        shared = self.work / "shared"
        return {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUNBUFFERED": "1",
            "ANIPOT_SHARED": str(shared),
            "ANIPOT_ZOO": str(shared / "weights" / "ani-model-zoo"),
            "ANIPOT_OFFLINE": "1",
            "ANIPOT_CACHE": str(self.work / "cache"),
            "TORCHANI_DATA_DIR": str(self.work / "torchani" / "share" / "Torchani"),
            "TORCHANI_NO_WARN_EXTENSIONS": "1",
        }

    def left(self) -> float:
        return self.end_at - time.monotonic()

    def run(self) -> bool:
        """Go through the stages; whether none of those failed that tell right from wrong."""
        well = True
        for name in self.options.stages:
            seconds = min(SECONDS[name], self.left() - RESERVE)
            if name == "benchmark" and "sanitizer" in self.options.stages:
                seconds -= SECONDS["sanitizer"]
            if seconds < 10:
                self.report["stages"][name] = {"code": None, "why": "time was over"}
                continue
            start = time.monotonic()
            print(f"=== {name}, at most {seconds:.0f} s", flush=True)
            code = getattr(self, f"run_{name}")(seconds)
            self.report["stages"][name] = {"code": code, "seconds": round(time.monotonic() - start, 1)}
            print(f"=== {name}: {'done' if code == 0 else f'code {code}'}, {self.left():.0f} s left", flush=True)
            well &= code == 0 or name == "kernels" or (name in ("cuaev", "sanitizer") and code is None)
            (self.output / "session.json").write_text(json.dumps(self.report, indent=1) + "\n")
        if self.background is not None:
            stop(self.background)
        return well

    def command(self, name: str, seconds: float, *command: str, more: dict[str, str] | None = None) -> int:
        """Run a command, append what it prints to ``name``.txt, show the end of it, and return its exit code."""
        path = self.output / f"{name}.txt"
        with path.open("a") as log:
            print("$", *command, file=log, flush=True)
            where = log.tell()
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment | (more or {}), stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = process.wait(max(0.0, seconds - GRACE))
            except subprocess.TimeoutExpired:
                interrupt(process)
                code = 124
            print(f"exit code {code}", file=log)
        print(path.read_text(errors="replace")[where:][-2500:], flush=True)
        return code

    def program(self, name: str) -> str | None:
        """Return the path of a program of the system or of the CUDA toolkit, if it is there."""
        return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/cuda/bin")))

    # -----------------------------------------------------------------------------------------------------------------
    # Stages

    def run_environment(self, seconds: float) -> int:
        if self.program("nvidia-smi"):
            self.command("environment", 20, str(self.program("nvidia-smi")))
        self.command("environment", 30, sys.executable, "-m", "torch.utils.collect_env")
        return self.command("environment", seconds, sys.executable, "-c", DOCTOR)

    def run_small(self, seconds: float) -> int:
        """Energies, forces, a Hessian and a step of training of small models, beside plain torch on the CPU."""
        return self.command("environment", seconds, sys.executable, str(TOOLS / "gpu_small.py"), self.options.device)

    def run_cuaev(self, seconds: float) -> int | None:
        """Build TorchANI's extension, beside the stages that follow; the benchmark waits for it."""
        if self.program("nvcc") is None or not (self.work / "site" / "torchani").is_dir():
            print("no nvcc, or no TorchANI: cuAEV is not built")
            return None
        if (self.work / "torchani" / "lib" / "Torchani" / "cuaev.so").is_file():
            return 0  # by a session before this one
        home = Path(str(self.program("nvcc"))).resolve().parents[1]
        with (self.output / "cuaev.txt").open("w") as log:
            self.background = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from torchani.cli import main; main()",
                    "build-extensions",
                    "-s",
                    self._capability(),
                ],
                env=self.environment | {"CUDA_HOME": str(home), "MAX_JOBS": "8"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.built_until = time.monotonic() + seconds
        return 0

    def _capability(self) -> str:
        asked = "import torch; print('%d.%d' % torch.cuda.get_device_capability())"
        found = subprocess.run([sys.executable, "-c", asked], env=self.environment, capture_output=True, text=True)
        return found.stdout.strip() or "9.0"

    def run_tests(self, seconds: float) -> int:
        """Run the tests marked ``cuda``, of the files that have such; warnings are no errors here."""
        files = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if "mark.cuda" in path.read_text()]
        if not files:
            print("no test is marked cuda")
            return 1
        pytest = [sys.executable, "-m", "pytest", "-m", "cuda", "-v", "-ra", "--tb=short", "-p", "no:cacheprovider"]
        pytest += ["-o", "filterwarnings=", "--durations=10", "--maxfail=20"]
        # An error that ends a context of the device ends one process then.
        pytest += ["-n", "4"] if find_spec("xdist") else []
        pytest += ["--timeout", "90"] if find_spec("pytest_timeout") else []
        return self.command("tests", seconds, *pytest, *files)

    def run_references(self, seconds: float) -> int:
        output = ["--output", str(self.output / "references.json"), "--seconds", str(seconds - 10)]
        program = [sys.executable, str(TOOLS / "gpu_references.py"), "--device", self.options.device]
        return self.command("tests", seconds, *program, *output)

    def run_kernels(self, seconds: float) -> int | None:
        """Time each kernel, and the networks' with blocks of every size."""
        if self.options.device == "cpu":
            return None
        return self.command("benchmark", seconds, sys.executable, str(TOOLS / "gpu_kernels.py"))

    def run_benchmark(self, seconds: float) -> int:
        if self.background is not None:
            try:
                self.background.wait(max(0.0, min(self.built_until - time.monotonic(), seconds / 3)))
            except subprocess.TimeoutExpired:
                print("cuAEV was not built in time")
                stop(self.background)
            self.background = None
            seconds = min(seconds, self.left() - RESERVE)
        program = [sys.executable, str(TOOLS / "benchmark.py"), "--device", self.options.device, "--markdown"]
        output = ["--output", str(self.output / "benchmark.json"), "--seconds", str(seconds - 5)]
        few_lines = {"TQDM_MININTERVAL": "20"}
        return self.command("benchmark", seconds, *program, *output, *self.options.rest, more=few_lines)

    def run_sanitizer(self, seconds: float) -> int | None:
        """Look for bad memory accesses and races of the small models, without torch's cache of memory."""
        program = self.program("compute-sanitizer")
        if program is None:
            print("no compute-sanitizer")
            return None
        code, small = 0, [sys.executable, str(TOOLS / "gpu_small.py"), self.options.device, "--least"]
        for tool in ("memcheck", "racecheck"):
            if self.left() < RESERVE + 10:
                break
            command = [program, "--tool", tool, "--error-exitcode", "9", *small]
            # Without torch's cache every tensor has bounds of its own, but no graph can be captured.
            without_cache = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "ANIPOT_CUDA": "launches"}
            code = max(
                code,
                self.command(
                    "sanitizer",
                    min(seconds / 2, self.left() - RESERVE),
                    *command,
                    more=without_cache if tool == "memcheck" else None,
                ),
            )
        return code


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Let a process say what it has so far, as pytest and the benchmark do, and end it."""
    os.kill(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    stop(process, even_if_over=True)


def stop(process: subprocess.Popen[bytes], even_if_over: bool = False) -> None:
    """End a process and those that it has started."""
    if process.poll() is None or even_if_over:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def stages(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := set(names) - set(STAGES):
        raise argparse.ArgumentTypeError(f"expected stages of {', '.join(STAGES)}; got {', '.join(sorted(unknown))}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="write archives of data and wheels")
    preparing.add_argument("folder", type=Path)
    preparing.add_argument("--python", default="3.12", help="version on the machine with the GPU")
    running = commands.add_parser("run", help="go through the stages")
    running.add_argument("--data", type=Path, required=True, help="folder of the archives")
    running.add_argument("--output", type=Path, required=True, help="folder for results")
    running.add_argument("--work", default=str(Path(tempfile.gettempdir(), "anipot-gpu")), help="where to unpack")
    running.add_argument("--seconds", type=float, default=570.0, help="for everything")
    running.add_argument("--stages", type=stages, default=list(STAGES))
    running.add_argument("--device", default="cuda")
    running.add_argument("rest", nargs="*", help="after --: options of tools/benchmark.py")
    options = parser.parse_args()
    if options.command == "prepare":
        prepare(options.folder, Path(os.environ.get("ANIPOT_SHARED", ROOT.parent / "shared")), options.python)
    else:
        sys.exit(0 if Session(options).run() else 1)


if __name__ == "__main__":
    main()
