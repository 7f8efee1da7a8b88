"""The zoo: where weights are looked for, what is done with them, and what happens when that goes wrong.

Nothing here needs the network: a server on this machine, or pip with a folder, plays the sources.
"""

from __future__ import annotations

import argparse
import errno
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_neurochem import energy, shared_files, write_ensemble

import anipot
from anipot import zoo
from anipot.cli import zoo as zoo_cli
from anipot.interfaces import neurochem
from anipot.zoo import cache, download, sources
from anipot.zoo.index import index, normalise

ROOT = Path(__file__).parents[1]
MODELS = {"tiny1": "tiny-1_2x", "tiny2": "tiny-2_2x"}


class Site:
    """A small zoo: two models, an index of them, and a server that gives them out."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "published"
        for seed, folder in enumerate(MODELS.values()):
            write_ensemble(self.folder / "resources" / folder, seed=seed)
        self.archive = tmp_path / "site" / "published.zip"
        self.archive.parent.mkdir()
        self.pack()
        self.requests: list[str] = []
        self.stall = threading.Event()
        self.cache = tmp_path / "cache"
        self.index = tmp_path / "index" / "index.json"

    def pack(self) -> None:
        shutil.make_archive(str(self.archive.with_suffix("")), "zip", self.folder.parent, self.folder.name)

    def write_index(self, *sources: dict[str, str]) -> None:
        """Write an index whose models all have the given sources."""
        self.index.parent.mkdir(exist_ok=True)
        models = {}
        for key, folder in MODELS.items():
            files = neurochem.find_ensemble(self.folder, folder)
            (self.index.parent / f"{key}.sha256").write_text(neurochem.manifest_text(files.checksums()))
            models[key] = {
                "name": key.title().replace("y", "y-"),
                "folder": folder,
                "elements": ["H", "C"],
                "members": 2,
                "level_of_theory": "none",
                "citation": "nobody",
                "doi": "none",
                "license": "MIT",
                "sources": list(sources),
                "self_energies": [-0.6009529800000001, -38.08316124],
            }
        self.index.write_text(json.dumps({"models": models}))

    def local(self) -> str:
        return str(self.folder)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append(self.path)
            if not self.path.endswith("published.zip"):
                self.send_error(404)
                return
            data = site.archive.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:1000])
            self.wfile.flush()
            if self.path.startswith("/stalls"):
                site.stall.wait(30)
            if not self.path.startswith("/short"):
                self.wfile.write(data[1000:])

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    site.host = f"http://127.0.0.1:{server.server_port}"
    site.url = {"kind": "url", "url": f"{site.host}/published.zip"}
    site.write_index(site.url)
    for name in ("ANIPOT_ZOO", "ANIPOT_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANIPOT_CACHE", str(site.cache))
    monkeypatch.setenv("ANIPOT_ZOO_INDEX", str(site.index))
    yield site
    site.stall.set()
    server.shutdown()
    server.server_close()


def run(code: str, **env: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


# --------------------------------------------------------------------------------------------------------------------
# Order of search


def test_a_source_is_asked_once_and_serves_every_model(site: Site) -> None:
    model = anipot.load("tiny-1")
    assert model.info()["source"] == site.url["url"]
    assert energy(model) == energy(neurochem.read_ensemble(site.folder, "tiny-1_2x"))
    assert site.requests == ["/published.zip"]
    assert [path.name for path in cache.downloads_dir().glob("*.zip")] != []  # it still serves the other model
    zoo.pull(["TINY2", "tiny1"])
    assert site.requests == ["/published.zip"]
    assert list(cache.downloads_dir().glob("*.zip")) == []
    anipot.load("tiny1")
    assert site.requests == ["/published.zip"]
    kept = {"tiny1/tiny1.json", "tiny1/tiny1.safetensors", "tiny2/tiny2.json", "tiny2/tiny2.safetensors"}
    assert files_in(site.cache) - {"tiny1/lock", "tiny2/lock"} == kept


def test_given_folder_comes_before_sources_and_cache_before_both(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIPOT_ZOO", site.local())
    assert anipot.load("tiny1").info()["source"] == f"$ANIPOT_ZOO={site.local()}"
    assert site.requests == []
    monkeypatch.setenv("ANIPOT_ZOO", "/nowhere")
    assert anipot.load("tiny1").info()["source"] == f"$ANIPOT_ZOO={site.local()}"  # from the cache, which says so
    assert anipot.load("tiny2").info()["source"] == site.url["url"]


@pytest.mark.parametrize("kind", ["ensemble", "zip", "exported file", "folder of exported files"])
def test_kinds_of_given_places(site: Site, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIPOT_OFFLINE", "1")
    place = site.archive if kind == "zip" else site.folder / "resources" / "tiny-1_2x"
    if "exported" in kind:
        zoo.import_path(site.folder)
        place = zoo.export("tiny1", tmp_path)
        shutil.rmtree(site.cache)
    monkeypatch.setenv("ANIPOT_ZOO", str(place.parent if kind.startswith("folder") else place))
    model = anipot.load("tiny1")
    assert energy(model) == energy(neurochem.read_ensemble(site.folder, "tiny-1_2x"))
    assert {"level_of_theory", "citation", "doi", "license", "source", "sha256"} <= set(model.info())
    assert model.info()["sha256"] == cache.file_sha256(cache.weights_path("tiny1"))


def test_every_failure_is_told(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = {"kind": "url", "url": f"{site.host}/gone.zip"}
    short = {"kind": "url", "url": f"{site.host}/short/published.zip"}
    wrong = {"kind": "url", "url": f"{site.host}/published.zip", "sha256": "0" * 64}
    nobody = {"kind": "url", "url": "http://127.0.0.1:9/x.zip"}
    site.write_index(missing, short, wrong, nobody, {"kind": "carrier pigeon"})
    monkeypatch.setenv("ANIPOT_ZOO", str(tmp_path / "nothing"))
    with pytest.raises(zoo.ZooError) as caught:
        anipot.load("tiny1")
    reasons = [attempt.reason for attempt in caught.value.attempts]
    expected = ["no such file", "no file or folder", "404", "", "with sha256", "refused", "unknown kind of source"]
    assert len(reasons) == len(expected)
    for reason, words in zip(reasons, expected, strict=True):
        assert words in reason
        assert reason in str(caught.value)
    assert "anipot zoo import PATH" in str(caught.value)
    assert "tiny-1_2x/" in str(caught.value)
    site.write_index(missing, site.url)
    monkeypatch.delenv("ANIPOT_ZOO")
    assert len(anipot.load("tiny1")) == 2


def test_an_altered_file_is_named_and_not_kept(site: Site) -> None:
    path = site.folder / "resources/tiny-1_2x/train1/networks/ANN-C.nnf-l1.wparam"
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    site.pack()
    with pytest.raises(
        zoo.ZooError, match=r"tiny-1_2x/train1/networks/ANN-C.nnf-l1.wparam is not the published one: its"
    ):
        anipot.load("tiny1")
    assert list(cache.downloads_dir().glob("*.zip")) == []
    data[7] ^= 1
    path.write_bytes(data)
    site.pack()
    assert len(anipot.load("tiny1")) == 2


def test_files_that_are_missing_or_too_many_are_named(site: Site) -> None:
    ensemble = site.folder / "resources/tiny-1_2x"
    shutil.copytree(ensemble / "train1", ensemble / "train2")
    with pytest.raises(ValueError, match=r"has files that Tiny-1 does not have, such as train2/networks/ANN-C.nnf"):
        zoo.import_path(ensemble)
    shutil.rmtree(ensemble / "train2")
    (ensemble / "train0/networks/ANN-H.nnf-l2.bparam").unlink()
    with pytest.raises(ValueError, match=r"ANN-H.nnf-l2.bparam is missing; Tiny-1 needs it"):
        zoo.import_path(ensemble)


def test_offline(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIPOT_OFFLINE", "1")
    site.write_index({"kind": "pip", "requirement": "tiny==1.0", "sha256": "0" * 64}, site.url)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was started"))
    with pytest.raises(
        zoo.ZooError, match=r"pip download tiny==1.0: ANIPOT_OFFLINE is set(.|\n)*zip: ANIPOT_OFFLINE is set"
    ):
        anipot.load("tiny1")
    assert site.requests == []
    assert zoo.import_path(site.archive) == ["tiny1", "tiny2"]
    assert len(anipot.load("tiny1")) == 2
    monkeypatch.setenv("ANIPOT_OFFLINE", "0")
    assert not download.offline()


# --------------------------------------------------------------------------------------------------------------------
# pip


@pytest.fixture
def wheel(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with both models, in a folder that pip takes for its index."""
    file = tmp_path / "wheels" / "tiny_potentials-1.0-py3-none-any.whl"
    file.parent.mkdir()
    info = "tiny_potentials-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny_potentials\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
        for path in (site.folder / "resources").rglob("*"):
            if path.is_file():
                archive.write(path, f"tiny_potentials/resources/{path.relative_to(site.folder / 'resources')}")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(file.parent))
    return file


def pip_source(wheel: Path) -> dict[str, str]:
    return {"kind": "pip", "requirement": "tiny_potentials==1.0", "sha256": cache.file_sha256(wheel)}


def test_pip_fetches_once_for_all_models(site: Site, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write_index(pip_source(wheel), site.url)
    assert anipot.load("tiny1").info()["source"] == "pip download tiny_potentials==1.0"
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was started again"))
    assert anipot.load("tiny2").info()["source"] == "pip download tiny_potentials==1.0"
    assert site.requests == []


def test_when_pip_fails_the_next_source_is_asked(site: Site, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    altered = pip_source(wheel) | {"sha256": "0" * 64}
    site.write_index(altered, {"kind": "pip", "requirement": "tiny_potentials==9.9", "sha256": "0" * 64})
    with pytest.raises(zoo.ZooError) as caught:
        anipot.load("tiny1")
    first, second = (attempt.reason for attempt in caught.value.attempts[-2:])
    assert f"with sha256 {cache.file_sha256(wheel)}, expected {'0' * 64}" in first
    assert "No matching distribution found for tiny_potentials==9.9" in second
    site.write_index(altered, site.url)
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    anipot.load("tiny1")
    assert site.requests == ["/published.zip"]


def test_without_pip(site: Site, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write_index(pip_source(wheel))
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(zoo.ZooError, match=r"this Python \(.*\) has no pip"):
        anipot.load("tiny1")


# --------------------------------------------------------------------------------------------------------------------
# Things that go wrong


def test_a_killed_pull_leaves_nothing_that_counts(site: Site) -> None:
    site.write_index({"kind": "url", "url": f"{site.host}/stalls/published.zip"})
    process = run("from anipot import zoo; zoo.pull('tiny1')")
    deadline = time.monotonic() + 30
    while not list(cache.downloads_dir().glob("tmp-*/*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(cache.downloads_dir().glob("tmp-*")) != []
    assert not any(status.cached for status in zoo.table())
    site.stall.set()
    assert len(anipot.load("tiny1")) == 2
    assert list(site.cache.rglob("tmp-*")) == []
    assert [status.problem for status in zoo.verify()] == [""]


@pytest.mark.parametrize("step", ["save", "first replace", "second replace"])
def test_a_kill_at_any_step_of_writing_is_repaired(site: Site, step: str, recwarn: pytest.WarningsRecorder) -> None:
    die = {
        "save": "storage.save_model = lambda potential, path: (open(path, 'wb').write(b'half'), os._exit(9))",
        "first replace": "os.replace = lambda a, b: os._exit(9) if str(b).endswith('.safetensors') else replace(a, b)",
        "second replace": "os.replace = lambda a, b: os._exit(9) if str(b).endswith('.json') else replace(a, b)",
    }[step]
    code = f"import os; from anipot import storage, zoo; replace = os.replace; {die}; zoo.pull('tiny1')"
    process = run(code, ANIPOT_ZOO=site.local())
    process.communicate()
    assert process.returncode == 9
    assert not any(status.cached for status in zoo.table())
    assert len(anipot.load("tiny1")) == 2
    assert list(site.cache.rglob("tmp-*")) == []
    assert zoo.status("tiny1").problem == ""


def test_two_pulls_at_once_do_the_work_once(site: Site) -> None:
    code = (
        "from anipot import storage, zoo; save = storage.save_model\n"
        "def slow(*args): print('converted', flush=True); import time; time.sleep(0.5); save(*args)\n"
        "storage.save_model = slow; print(zoo.pull('tiny1')['tiny1'])"
    )
    processes = [run(code) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum(out.count("converted") for out, _ in outputs) == 1
    assert site.requests == ["/published.zip"]
    assert [status.problem for status in zoo.verify()] == [""]


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[-5] ^= 0x10
    path.write_bytes(b"" if how == "empty" else data[:-9] if how == "cut" else data)
    if how == "gone":
        path.unlink()


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "gone"])
def test_a_damaged_copy_is_made_anew(site: Site, how: str) -> None:
    path = zoo.pull("tiny1")["tiny1"]
    good = path.read_bytes()
    damage(path, how)
    problem = "cannot be read: No such file" if how == "gone" else r"is damaged: its \d+ bytes have sha256"
    assert [status.name for status in zoo.verify() if status.problem] == ["tiny1"]
    with pytest.warns(UserWarning, match=rf"tiny1.safetensors {problem}.*; Tiny-1 is made anew"):
        model = anipot.load("tiny1")
    assert len(model) == 2
    assert path.read_bytes() == good
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        anipot.load("tiny1")


def test_a_damaged_copy_without_another_source(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(zoo.pull("tiny1")["tiny1"], "flip")
    shutil.rmtree(cache.downloads_dir())
    monkeypatch.setenv("ANIPOT_OFFLINE", "1")
    for _ in range(2):
        with (
            pytest.warns(UserWarning, match="damaged"),
            pytest.raises(zoo.ZooError, match=r"tiny1.safetensors is damaged: its"),
        ):
            anipot.load("tiny1")
    monkeypatch.delenv("ANIPOT_OFFLINE")
    with pytest.warns(UserWarning, match="damaged"):
        assert len(anipot.load("tiny1")) == 2


def test_a_damaged_record(site: Site) -> None:
    zoo.pull("tiny1")
    cache.record_path("tiny1").write_text('{"key": "tiny1"')
    assert "cannot be read" in zoo.status("tiny1").problem
    with pytest.warns(UserWarning, match=r"tiny1.json cannot be read.*made anew"):
        assert len(anipot.load("tiny1")) == 2


def test_a_copy_that_only_looks_right_is_found_by_verify(site: Site) -> None:
    """Weights and record altered together: only the published checksums can tell."""
    path = zoo.pull("tiny1")["tiny1"]
    damage(path, "flip")
    record = json.loads(cache.record_path("tiny1").read_text())
    cache.record_path("tiny1").write_text(json.dumps(record | {"sha256": cache.file_sha256(path)}))
    assert "are not the published ones" in zoo.status("tiny1").problem


def test_another_list_of_files_or_format_is_made_anew_without_noise(site: Site) -> None:
    zoo.pull("tiny1")
    record = json.loads(cache.record_path("tiny1").read_text())
    for change in ({"format": 0}, {"manifest_sha256": "0" * 64}):
        cache.record_path("tiny1").write_text(json.dumps(record | change))
        assert "written by another release" in zoo.status("tiny1").problem
        assert len(anipot.load("tiny1")) == 2
        assert zoo.status("tiny1").problem == ""


def full_disk(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["write", "replace"])
def test_full_disk(site: Site, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIPOT_ZOO", site.local())
    with monkeypatch.context() as patch:
        patch.setattr(*((cache, "write_weights") if step == "write" else (cache.os, "replace")), full_disk)
        with pytest.warns(
            UserWarning, match=r"Tiny-1 is used from .*, but could not be cached: cannot write .*No space left"
        ):
            assert len(anipot.load("tiny1")) == 2
        with pytest.raises(zoo.ZooError, match=r"cannot write .*tiny1.safetensors: .*No space left"):
            zoo.pull("tiny1")
        with pytest.raises(zoo.ZooError, match="No space left"):
            zoo.import_path(site.folder)
    assert not any(status.cached for status in zoo.table())
    assert list(site.cache.rglob("tmp-*")) == []
    assert len(anipot.load("tiny1")) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs file size limits")
def test_a_disk_that_really_refuses(site: Site) -> None:
    code = (
        "import resource, signal, warnings; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import anipot; resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)); warnings.simplefilter('always')\n"
        "print(len(anipot.load('tiny1')))"
    )
    process = run(code, ANIPOT_ZOO=site.local())
    out, err = process.communicate()
    assert out == "2\n", err
    assert "could not be cached" in err
    assert not any(status.cached for status in zoo.table())
    assert list(site.cache.rglob("tmp-*")) == []


def test_unwritable_cache(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ANIPOT_CACHE", str(tmp_path / "file"))
    with pytest.warns(
        UserWarning, match=r"Tiny-1 is used from http.*, but could not be cached: cannot write to .*file"
    ):
        assert len(anipot.load("tiny1")) == 2
    with pytest.raises(zoo.ZooError, match="cannot write to"):
        zoo.pull("tiny1")
    monkeypatch.setattr(sources.tempfile, "TemporaryDirectory", full_disk)
    with pytest.raises(zoo.ZooError, match="No space left"):
        anipot.load("tiny1")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_cache(site: Site) -> None:
    zoo.pull("tiny1")
    folders = [site.cache, site.cache / "tiny1", cache.downloads_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert len(anipot.load("tiny1")) == 2
        with pytest.warns(UserWarning, match="could not be cached"):
            assert len(anipot.load("tiny2")) == 2
    finally:
        for folder in folders:
            folder.chmod(0o755)


# --------------------------------------------------------------------------------------------------------------------
# Names, members, options


def test_unknown_names(site: Site) -> None:
    with pytest.raises(
        ValueError, match=r"no model is named 'tinny1'; did you mean tiny1 or tiny2\? Known are tiny1, tiny2, mini\."
    ):
        anipot.load("tinny1")
    with pytest.raises(ValueError, match=r"no model is named 'qqqq'\. Known are tiny1, tiny2, mini\."):
        zoo.pull("qqqq")
    assert normalise("ANI-1ccx_8x") == "ani1ccx8x"


def test_members_and_options(site: Site) -> None:
    model = anipot.load("tiny1", model_index=1, dtype=torch.float64, periodic_table_index=False)
    assert (len(model), model.dtype, model.periodic_table_index) == (1, torch.float64, False)
    assert energy(anipot.load("tiny1", model_index=1)) == energy(anipot.load("tiny1")[1])
    assert anipot.load("tiny1").dtype == torch.get_default_dtype()
    with pytest.raises(IndexError, match=r"Tiny-1 has 2 members, 0 to 1; got 2"):
        anipot.load("tiny1", model_index=2)
    with pytest.raises(TypeError, match="integer"):
        anipot.load("tiny1", model_index="0")  # type: ignore[arg-type]
    torch.set_default_dtype(torch.float64)
    try:
        assert anipot.load("tiny1").dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_paths(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = site.folder / "resources" / "tiny-1_2x"
    model = anipot.load(folder)
    assert model.info()["source"] == str(folder)
    assert model.info()["level_of_theory"] == "none"  # recognised by its checksums
    model.save(tmp_path / "mine.safetensors")
    assert energy(anipot.load(str(tmp_path / "mine.safetensors"))) == energy(model)
    with pytest.raises(
        ValueError, match=r"published.zip has several models, tiny-1_2x, tiny-2_2x; run `anipot zoo import"
    ):
        anipot.load(site.archive)
    with pytest.raises(FileNotFoundError, match=r"mined.safetensors"):
        anipot.load(str(tmp_path / "mined.safetensors"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "tiny2")
    assert anipot.load("tiny2").name == "Tiny-2"  # the name comes first
    assert anipot.load("./tiny2").name == "Tiny-1"
    shutil.copytree(folder, tmp_path / "folder")
    assert anipot.load("folder").name == "Tiny-1"


# --------------------------------------------------------------------------------------------------------------------
# Import, export, own models


def test_import_recognises_what_was_published(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.folder / "resources" / "tiny-2_2x", tmp_path / "renamed")
    assert zoo.import_path(tmp_path / "renamed") == ["tiny2"]
    exported = zoo.export("tiny2", tmp_path / "x.safetensors")
    shutil.rmtree(site.cache)
    assert zoo.import_path(exported) == ["tiny2"]
    assert zoo.status("tiny2").problem == ""
    assert site.requests == []
    assert "imported from" in anipot.load("tiny2").info()["source"]


def test_import_of_what_is_not_published(site: Site, tmp_path: Path) -> None:
    mine = write_ensemble(tmp_path / "mine", seed=7)
    with pytest.raises(
        ValueError, match=r"mine is none of the published models; to import it as one of your own, name it"
    ):
        zoo.import_path(mine)
    assert zoo.import_path(mine, name="My-Model") == ["mymodel"]
    assert zoo.names() == ["tiny1", "tiny2", "mini", "mymodel"]
    model = anipot.load("my_model")
    assert (model.name, energy(model)) == ("My-Model", energy(neurochem.read_ensemble(mine)))
    assert zoo.status("mymodel").elements == ("H", "C")
    exported = zoo.export("mymodel", tmp_path)
    with pytest.raises(ValueError, match=r"mymodel.safetensors is none of the published models; give it a name"):
        zoo.import_path(exported)
    with pytest.raises(zoo.ZooError, match=r"'tiny-1' is the name of the published Tiny-1"):
        zoo.import_path(mine, name="tiny-1")
    with pytest.raises(ValueError, match=r"a name needs letters"):
        zoo.import_path(mine, name="--")
    damage(cache.weights_path("mymodel"), "cut")
    with pytest.raises(zoo.ZooError, match=r"is damaged.*import your model mymodel again"):
        anipot.load("mymodel")


def test_import_of_a_file_that_says_what_it_is_not(site: Site, tmp_path: Path) -> None:
    model = anipot.load("tiny1")
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    model.save(tmp_path / "x.safetensors")
    with pytest.raises(
        zoo.ZooError, match=r"says that it is Tiny-1, but the weights that Tiny-1 has in train0/networks"
    ):
        zoo.import_path(tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        zoo.import_path(tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match="holds no NeuroChem model"):
        zoo.import_path(site.index.parent)


def test_import_takes_what_is_good_and_tells_the_rest(site: Site) -> None:
    (site.folder / "resources/tiny-1_2x/train0/networks/ANN-H.nnf").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"not imported: .*ANN-H.nnf is empty"):
        assert zoo.import_path(site.folder) == ["tiny2"]


def test_export_errors(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a folder or end in .safetensors"):
        zoo.export("tiny1", tmp_path / "x.pt")
    with pytest.raises(FileNotFoundError, match=r"no folder"):
        zoo.export("tiny1", tmp_path / "nowhere" / "x.safetensors")


def test_other_users_may_read_a_shared_cache(site: Site) -> None:
    path = zoo.pull("tiny1")["tiny1"]
    assert path.stat().st_mode == cache.record_path("tiny1").stat().st_mode


# --------------------------------------------------------------------------------------------------------------------
# Shell


def shell(*words: str) -> int:
    parser = argparse.ArgumentParser()
    zoo_cli.add_parser(parser.add_subparsers())
    args = parser.parse_args(["zoo", *words])
    return args.run(args)


def test_shell(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell("verify") == 0
    assert "nothing is cached in" in capsys.readouterr().out
    with pytest.raises(zoo.ZooError, match=r"Tiny-1 is not cached; `anipot zoo pull tiny1` fetches it"):
        shell("path", "tiny1")
    assert shell("pull", "tiny-1") == 0
    assert capsys.readouterr().out == f"tiny1: {cache.weights_path('tiny1')}\n"
    assert shell("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["tiny1", "H", "C", "2", "none", "yes"],
        ["tiny2", "H", "C", "2", "none", "no"],
    ]
    assert re.match(r"mini +H C N O +\d .* shipped$", lines[3])
    assert shell("path") == shell("path", "TINY1") == 0
    assert capsys.readouterr().out == f"{site.cache}\n{cache.weights_path('tiny1')}\n"
    assert shell("export", "tiny1", str(tmp_path)) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'tiny1.safetensors'}\n"
    assert shell("import", str(tmp_path / "tiny1.safetensors")) == 0
    assert shell("import", str(site.folder / "resources" / "tiny-1_2x"), "--name", "mine") == 0
    assert shell("verify") == 0
    assert capsys.readouterr().out == "imported tiny1\nimported mine\ntiny1: ok\nmine: ok\n"
    damage(cache.weights_path("mine"), "cut")
    assert shell("verify") == 1
    assert "mine: " in capsys.readouterr().out
    assert shell("verify", "tiny1") == 0


# --------------------------------------------------------------------------------------------------------------------
# The published models


def test_packaged_index() -> None:
    entries = index(ROOT / "model_zoo" / "index.json")
    assert list(entries) == ["ani1x", "ani1ccx", "ani2x"]
    for entry in entries.values():
        layers = 4
        assert len(entry.checksums) == 2 + entry.members * len(entry.elements) * (1 + 2 * layers)
        assert entry.constants is not None
        assert len(entry.self_energies or ()) == len(entry.elements)
    assert [source["kind"] for source in entries["ani2x"].sources] == ["url"]


def test_damaged_index(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"models": {"a": {}}}')
    (tmp_path / "a.sha256").write_text("abc  file\n")
    with pytest.raises(ValueError, match=r"index.json is not an index of models: KeyError"):
        index(tmp_path / "index.json")


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ANIPOT_ZOO", "ANIPOT_ZOO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANIPOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


METHANE = {"ANI1x": -40.45309012870, "ANI1ccx": -40.41963148077, "ANI2x": -40.45361047679}


def test_published_models(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIPOT_ZOO", str(shared_files() / "weights" / "ani-model-zoo"))
    monkeypatch.setenv("ANIPOT_OFFLINE", "1")
    for name, expected in METHANE.items():
        for _ in ("converted", "cached"):
            model = getattr(anipot.models, name)(dtype=torch.float64)
            assert energy(model) == pytest.approx(expected, abs=1e-10)
        assert len(model) == 8
    assert [status.problem for status in zoo.verify()] == ["", "", ""]
    assert model.info()["doi"] == "10.1021/acs.jctc.0c00121"


@pytest.mark.skipif(os.environ.get("ANIPOT_TEST_NETWORK") != "1", reason="needs a package index; ANIPOT_TEST_NETWORK=1")
def test_pip_download_of_the_real_release(published: Path) -> None:
    zoo.pull(["ani1x", "ani1ccx"])
    for name in ("ANI1x", "ANI1ccx"):
        model = getattr(anipot.models, name)()
        assert energy(model) == pytest.approx(METHANE[name], abs=1e-10)
        assert model.info()["source"] == "pip download torchani==2.0"


def test_import_is_quick() -> None:
    code = (
        "import sys, torch, anipot\n"
        "slow = {'pooch', 'ase', 'requests', 'safetensors'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    out, err = run(code).communicate()
    assert out == "[]\n", err
