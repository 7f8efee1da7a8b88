"""What a machine with a GPU, no network and no shared folder needs: archives of data and wheels, made and unpacked."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESOURCES = Path("weights", "ani-model-zoo", "resources")
#: What images with torch mostly lack; of the second list only the training and the command line have need.
WHEELS = ("ase==3.29.0", "torchani==2.9.0", "pooch", "platformdirs")
MORE_WHEELS = ("jsonargparse", "docstring-parser", "typeshed-client")
#: Where wheels may be built for.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
#: Conformers of the data set for epochs of training: a few more than benchmark_cases.py takes.
CONFORMERS = 5200
#: References up to this size travel with ANI-2x as well.
SMALL = 60_000
#: Of the archives and the files of the repository together, MiB.
LIMIT = 64.0


def prepare(folder: Path, shared: Path, python: str = "3.12") -> None:
    """Write ``base.tar.gz``, with ANI-1x, ANI-1ccx, references and data, and ``ani2x.tar.gz``, and print their sizes.

    The two are for separate calls where both are too large for one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wheels = folder / "wheels"
    download((*WHEELS, *MORE_WHEELS), wheels, python)
    few = [
        path
        for path in sorted(wheels.glob("*.whl"))
        if not any(path.name.startswith(one.replace("-", "_")) for one in MORE_WHEELS)
    ]
    systems = [
        path for path in (shared / "bench" / "systems").iterdir() if path.suffix == ".xyz" or path.stem == "batch20"
    ]
    references = sorted((shared / "reference").glob("*.npz"))
    weights = {name: shared / RESOURCES / name for name in ("ani-1x_8x", "ani-1ccx_8x", "ani-2x_8x")}
    with tarfile.open(folder / "base.tar.gz", "w:gz", compresslevel=6) as archive:
        _add(
            archive,
            shared,
            [*systems, *references, *_with_info(weights["ani-1x_8x"]), *_with_info(weights["ani-1ccx_8x"])],
        )
        _add(archive, folder, sorted(wheels.glob("*.whl")))
        _add_conformers(archive, shared / "bench" / "systems" / "train10k.npz")
    with tarfile.open(folder / "ani2x.tar.gz", "w:gz", compresslevel=6) as archive:
        small = [path for path in references if path.stat().st_size < SMALL]
        boxes = [path for path in systems if path.suffix == ".xyz"]
        _add(archive, shared, [*boxes, *small, *_with_info(weights["ani-2x_8x"])])
        _add(archive, folder, few)
    tell_sizes(folder)


def download(names: tuple[str, ...], wheels: Path, python: str) -> None:
    """Fetch wheels without what they need, for a Python version on Linux."""
    wheels.mkdir(exist_ok=True)
    if all(list(wheels.glob(f"{name.split('==')[0].replace('-', '_')}-*.whl")) for name in names):
        return
    where = [part for platform in PLATFORMS for part in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(wheels)]
    subprocess.run([*command, "--python-version", python, "--implementation", "cp", *where, *names], check=True)


def tell_sizes(folder: Path) -> None:
    """Print the sizes of the archives beside that of the files of the repository."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True
    ).stdout
    repository = sum((ROOT / name).stat().st_size for name in listed.split("\0") if name and (ROOT / name).is_file())
    print(f"files of the repository: {repository / 2**20:.1f} MiB")
    for path in sorted(folder.glob("*.tar.gz")):
        total = (path.stat().st_size + repository) / 2**20
        told = "" if total < LIMIT else f": more than {LIMIT:.0f} MiB"
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, with the repository {total:.1f} MiB{told}")


def unpack(folder: Path, target: Path) -> list[str]:
    """Unpack all archives of a folder, and install their wheels; return the names of those unpacked here so far."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.tar.gz")):
        mark = target / f".{path.name}-{path.stat().st_size}"
        if not mark.exists():
            with tarfile.open(path) as archive:
                archive.extractall(target, filter="data")
            mark.touch()
    wheels, site = sorted((target / "wheels").glob("*.whl")), target / "site"
    if wheels and not (site / f".{len(wheels)}").exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
        subprocess.run([*pip, "--no-cache-dir", "--target", str(site), *map(str, wheels)], check=True)
        (site / f".{len(wheels)}").touch()
    return sorted(path.name.split(".tar")[0][1:] for path in target.glob(".*.tar.gz-*"))


def _with_info(folder: Path) -> Iterator[Path]:
    """Yield the files of an ensemble, and that which says what they are."""
    yield folder.with_name(folder.name + ".info")
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def _add(archive: tarfile.TarFile, root: Path, paths: list[Path]) -> None:
    """Add files under ``shared``, or wheels as they stand."""
    for path in paths:
        name = path.relative_to(root)
        archive.add(path, str(name if path.suffix == ".whl" else Path("shared", name)), filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mode, member.uid, member.gid, member.uname, member.gname = 0o644, 0, 0, "", ""
    return member


def _add_conformers(archive: tarfile.TarFile, path: Path) -> None:
    """Add some conformers of a data set, in the dtypes and by the names that it has."""
    with np.load(path) as data:
        count = len(data["Z"])
        rows = np.sort(np.random.default_rng(0).permutation(count)[:CONFORMERS])
        some = {key: data[key][rows] if data[key].shape[:1] == (count,) else data[key] for key in data.files}
    written = io.BytesIO()
    np.savez_compressed(written, **some)
    member = tarfile.TarInfo(f"shared/bench/systems/{path.name}")
    member.size = written.tell()
    written.seek(0)
    archive.addfile(member, written)
