"""Large files arrive whole, or it is said why not: against a server on this machine."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from data_server import Page, Site, serve
from tqdm import tqdm

from anipot.data import checksums, transfer
from anipot.data.download import (
    ChecksumError,
    DiskFullError,
    DownloadError,
    OfflineError,
    Patience,
    RemoteFile,
    fetch,
    verify,
)

BODY = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)
QUICK = Patience(attempts=3, seconds=0.4, pause=0.01)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.delenv("ANIPOT_OFFLINE", raising=False)
    with serve() as made:
        yield made


def remote(site: Site, *names: str, body: bytes | None = BODY, size: int | None = None) -> RemoteFile:
    """Return the file ``data.bin`` at some addresses, with the checksum of ``body``."""
    checksum = None if body is None else f"sha256:{hashlib.sha256(body).hexdigest()}"
    return RemoteFile("data.bin", tuple(site.url(name) for name in names or ("a",)), checksum, size)


def get(file: RemoteFile, folder: Path, patience: Patience = QUICK) -> Path:
    return fetch(file, folder, progress=False, patience=patience)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_whole_file_once(site, tmp_path):
    site.pages["a"] = Page(BODY)
    file = remote(site, size=len(BODY))
    for _ in range(2):
        assert get(file, tmp_path / "new").read_bytes() == BODY
    assert site.ranges() == [None]
    assert left(tmp_path / "new") == {"data.bin", "checksums.json"}
    entry = json.loads((tmp_path / "new" / "checksums.json").read_text())["data.bin"]
    assert entry["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert entry["source"] == site.url("a")


@pytest.mark.parametrize("kind", ["md5", "git"])
def test_other_checksums(site, tmp_path, kind):
    data = b"hello\n"  # git hash-object says ce01…
    digits = {"md5": hashlib.md5(data).hexdigest(), "git": "ce013625030ba8dba906f756967f9e9ca394464a"}[kind]
    site.pages["a"] = Page(data)
    assert get(RemoteFile("h", (site.url("a"),), f"{kind}:{digits}"), tmp_path).read_bytes() == data
    with pytest.raises(ChecksumError, match=f"has {'git blob' if kind == 'git' else kind} {digits}, expected 0"):
        get(RemoteFile("i", (site.url("a"),), f"{kind}:{'0' * len(digits)}"), tmp_path)


def test_broken_connections_are_continued(site, tmp_path):
    site.pages["a"] = Page(BODY, cuts=[100_000, 0, 50_000])
    assert get(remote(site), tmp_path).read_bytes() == BODY
    assert site.ranges() == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]
    assert {condition for _, _, condition in site.requests} == {None}  # the checksum tells whether it fits


def test_without_a_checksum_the_server_must_say_that_it_is_the_same(site, tmp_path):
    site.pages["a"] = Page(BODY, cuts=[100_000])
    assert get(remote(site, body=None), tmp_path / "tagged").read_bytes() == BODY
    assert site.requests[-1] == ("a", "bytes=100000-", site.pages["a"].tag())
    for weak in (None, 'W/"weak"'):  # nothing that If-Range takes
        site.pages["a"] = Page(BODY, cuts=[100_000], etag=weak)
        assert get(remote(site, body=None), tmp_path / str(weak)[:1]).read_bytes() == BODY
        assert site.requests[-1] == ("a", None, None)


def test_many_cuts_are_borne_as_long_as_bytes_come(site, tmp_path):
    site.pages["a"] = Page(BODY, cuts=[20_000] * 14)
    assert get(remote(site), tmp_path).read_bytes() == BODY
    assert len(site.requests) == 15


def test_stalled_connection_is_continued(site, tmp_path):
    site.pages["a"] = Page(BODY, stalls=[81_920])
    assert get(remote(site), tmp_path).read_bytes() == BODY
    assert site.ranges() == [None, "bytes=81920-"]


def test_stalled_for_good(site, tmp_path):
    site.pages["a"] = Page(BODY, stalls=[81_920, 0, 0, 0])
    with pytest.raises(
        DownloadError, match=r"no byte for 0.4 s: .*81920 bytes are kept, the last of 3 attempts"
    ) as caught:
        get(remote(site), tmp_path)
    assert caught.value.attempts[0].place == site.url("a")
    assert (tmp_path / "data.bin.partial").stat().st_size == 81_920
    assert get(remote(site), tmp_path).read_bytes() == BODY
    assert site.ranges()[-1] == "bytes=81920-"


def test_wrong_checksum(site, tmp_path):
    site.pages["a"] = Page(OTHER)
    seen, expected = (hashlib.sha256(body).hexdigest() for body in (OTHER, BODY))
    with pytest.raises(ChecksumError, match=rf"has sha256 {seen}, expected {expected} \(published\)"):
        get(remote(site), tmp_path)
    assert left(tmp_path) == set()
    assert len(site.requests) == 1


def test_wrong_checksum_of_one_mirror(site, tmp_path):
    site.pages |= {"a": Page(OTHER), "b": Page(BODY)}
    assert get(remote(site, "a", "b"), tmp_path).read_bytes() == BODY


def test_damaged_part_is_fetched_anew(site, tmp_path):
    site.pages["a"] = Page(BODY, cuts=[100_000, 0, 0, 0])
    with pytest.raises(DownloadError):
        get(remote(site), tmp_path)
    with (tmp_path / "data.bin.partial").open("rb+") as file:
        file.write(b"damage")
    assert get(remote(site), tmp_path).read_bytes() == BODY
    assert site.ranges()[-2:] == ["bytes=100000-", None]


def test_missing_file_and_mirror(site, tmp_path):
    site.pages["b"] = Page(BODY)
    assert get(remote(site, "a", "b"), tmp_path).read_bytes() == BODY
    assert [name for name, _, _ in site.requests] == ["a", "b"]


def test_nowhere_to_be_had(site, tmp_path):
    site.pages["b"] = Page(BODY, statuses=[403])
    with pytest.raises(DownloadError) as caught:
        get(remote(site, "a", "b", size=len(BODY)), tmp_path)
    assert [attempt.reason for attempt in caught.value.attempts] == [
        "the server answered 404 Not Found",
        "the server answered 403 Forbidden",
    ]
    message = str(caught.value)
    assert f"1. {site.url('a')}: the server answered 404 Not Found\n" in message
    assert f"put it at {tmp_path / 'data.bin'}" in message
    assert f"(300000 bytes, sha256 {hashlib.sha256(BODY).hexdigest()})" in message


def test_busy_server_is_asked_again(site, tmp_path):
    site.pages["a"] = Page(BODY, statuses=[503, 429])
    assert get(remote(site), tmp_path).read_bytes() == BODY
    site.pages["a"] = Page(BODY, statuses=[202] * 3)
    with pytest.raises(DownloadError, match="the server answered 202 Accepted, the last of 3 attempts"):
        get(remote(site), tmp_path / "again")


def test_part_of_one_mirror_is_continued_at_the_next(site, tmp_path):
    site.pages |= {"a": Page(BODY, cuts=[100_000, 0, 0]), "b": Page(BODY, etag='"other"')}
    assert get(remote(site, "a", "b"), tmp_path).read_bytes() == BODY
    assert site.requests[-1] == ("b", "bytes=100000-", None)


def test_without_a_checksum_mirrors_are_not_mixed(site, tmp_path):
    site.pages |= {"a": Page(BODY, cuts=[100_000, 0, 0]), "b": Page(OTHER)}
    assert get(remote(site, "a", "b", body=None), tmp_path).read_bytes() == OTHER
    assert site.requests[-1] == ("b", None, None)


def test_server_without_ranges(site, tmp_path):
    site.pages["a"] = Page(BODY, ranges=False, cuts=[100_000])
    assert get(remote(site), tmp_path).read_bytes() == BODY
    assert site.ranges() == [None, "bytes=100000-"]


def test_server_without_ranges_that_always_breaks(site, tmp_path):
    site.pages["a"] = Page(BODY, ranges=False, cuts=[100_000] * 9)
    with pytest.raises(DownloadError, match=r"takes no ranges, so that every attempt starts anew.*of 3 attempts"):
        get(remote(site), tmp_path)
    assert len(site.requests) == 3


def test_file_that_changes_in_between(site, tmp_path):
    """A server that heeds If-Range sends the new file; one that does not is found out by its ETag."""
    for honest in (True, False):
        folder = tmp_path / str(honest)
        site.pages["a"] = Page(BODY, cuts=[100_000, 0, 0])
        with pytest.raises(DownloadError):
            get(remote(site, body=None), folder)
        site.pages["a"] = Page(OTHER, honest_ranges=honest)
        assert get(remote(site, body=None), folder).read_bytes() == OTHER


def test_part_longer_than_the_file(site, tmp_path):
    site.pages["a"] = Page(BODY, cuts=[100_000, 0, 0])
    with pytest.raises(DownloadError):
        get(remote(site, body=None), tmp_path)
    with (tmp_path / "data.bin.partial").open("ab") as file:
        file.write(bytes(len(BODY)))
    assert get(remote(site, body=None), tmp_path).read_bytes() == BODY


def test_unlike_size_is_refused_before_it_is_fetched(site, tmp_path):
    site.pages["a"] = Page(BODY, rate=5)
    with pytest.raises(DownloadError, match="the file has 300000 bytes, expected 299999"):
        get(remote(site, size=len(BODY) - 1), tmp_path)


def test_length_that_nobody_says(site, tmp_path):
    site.pages["a"] = Page(BODY, length=False, cuts=[1000])
    with pytest.raises(ChecksumError, match="has 1000 bytes, expected 300000"):
        get(remote(site, size=len(BODY)), tmp_path)
    assert get(remote(site, size=len(BODY)), tmp_path).read_bytes() == BODY


def test_web_page_in_place_of_the_file(site, tmp_path):
    site.pages["a"] = Page(b"<html>Please log in</html>", kind="text/html; charset=utf-8")
    with pytest.raises(DownloadError, match="a web page in place of the file"):
        get(remote(site, body=None), tmp_path)


def test_offline(site, tmp_path, monkeypatch):
    nobody = RemoteFile("data.bin", ("http://127.0.0.1:9/data.bin",))
    with pytest.raises(OfflineError, match=r"no server answered: is this machine online\?"):
        get(nobody, tmp_path)
    monkeypatch.setenv("ANIPOT_OFFLINE", "1")
    with pytest.raises(OfflineError, match=r"ANIPOT_OFFLINE is set.*put it at .*data\.bin\."):
        get(remote(site), tmp_path)
    assert site.requests == []
    (tmp_path / "data.bin").write_bytes(BODY)  # handed over
    assert get(remote(site), tmp_path).read_bytes() == BODY


def test_no_room(site, tmp_path, monkeypatch):
    site.pages["a"] = Page(BODY)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(DiskFullError, match="room for 1000 bytes, but 300000 are still to come"):
        get(remote(site, "a", "a"), tmp_path)
    assert len(site.requests) == 1  # another mirror would not help


def test_disk_that_fills_up(site, tmp_path, monkeypatch):
    site.pages["a"] = Page(BODY)
    save = transfer._save

    def full(response, partial, *rest):
        partial.write_bytes(BODY[:5000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer, "_save", full)
    with pytest.raises(DiskFullError, match=r"full after 5000 bytes of data\.bin; these are kept"):
        get(remote(site), tmp_path)
    monkeypatch.setattr(transfer, "_save", save)
    assert get(remote(site), tmp_path).read_bytes() == BODY
    assert site.ranges() == [None, "bytes=5000-"]


def test_first_download_is_on_record(site, tmp_path):
    """Without a published checksum a later download must be what the first one was."""
    site.pages["a"] = Page(BODY)
    file = remote(site, body=None)
    get(file, tmp_path).unlink()
    site.pages["a"] = Page(OTHER)
    with pytest.raises(ChecksumError, match=r"of its first download, on record in .*checksums\.json"):
        get(file, tmp_path)
    site.pages["a"] = Page(BODY)
    assert get(file, tmp_path).read_bytes() == BODY


def test_damaged_file_is_named_and_left(site, tmp_path):
    site.pages["a"] = Page(BODY)
    path = get(remote(site), tmp_path)
    path.write_bytes(OTHER)
    with pytest.raises(ChecksumError, match=f"{path} has sha256 .*, expected .*published"):
        get(remote(site), tmp_path)
    assert path.read_bytes() == OTHER


def test_untouched_file_is_not_read_again(site, tmp_path, monkeypatch):
    site.pages["a"] = Page(BODY)
    path = get(remote(site), tmp_path)

    def fail(*args):
        raise AssertionError("read again")

    monkeypatch.setattr(checksums, "digests", fail)
    verify(remote(site), path)
    with pytest.raises(AssertionError):  # a release that knows another checksum looks again
        verify(remote(site, body=OTHER), path)


def test_record_that_cannot_be_read(site, tmp_path):
    site.pages["a"] = Page(BODY)
    path = get(remote(site), tmp_path)
    (tmp_path / "checksums.json").write_text("{")
    verify(remote(site), path)
    assert checksums.recorded(path)["source"] == "found on the disk"


def test_one_of_two_fetches(site, tmp_path):
    site.pages["a"] = Page(BODY, rate=0.005)
    threads = [threading.Thread(target=get, args=(remote(site), tmp_path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert site.ranges() == [None]


def test_killed_process_is_continued(site, tmp_path):
    site.pages["a"] = Page(BODY, rate=0.02)
    file = remote(site)
    code = (
        "from pathlib import Path; from anipot.data.download import RemoteFile, fetch; "
        f"fetch(RemoteFile({file.name!r}, {file.urls!r}, {file.checksum!r}), Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    partial = tmp_path / "data.bin.partial"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 60_000):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    held = partial.stat().st_size
    site.pages["a"].rate = 0
    assert get(file, tmp_path).read_bytes() == BODY
    assert site.ranges() == [None, f"bytes={held}-"]
    assert left(tmp_path) == {"data.bin", "checksums.json"}


def test_bar_shows_rate_and_what_was_there(site, tmp_path):
    site.pages["a"] = Page(BODY, cuts=[150_000, 0, 0, 0])
    with pytest.raises(DownloadError):
        get(remote(site), tmp_path)
    text = io.StringIO()
    site.pages["a"].rate = 0.002
    with tqdm(file=text, unit="B", unit_scale=True, unit_divisor=1024, mininterval=0) as bar:
        partial = tmp_path / "data.bin.partial"
        transfer.transfer(site.url("a"), partial, size=None, mixable=True, bar=bar, patience=QUICK)
        assert (bar.n, bar.initial, bar.total) == (300_000, 150_000, 300_000)
    shown = text.getvalue().split("\r")
    assert "B/s" in shown[-2]
    assert not any(" 0.00/293k" in line for line in shown)


@pytest.mark.parametrize("text", ["md5:12", "crc:00", "98090dd6679106da861f52bed825ffb7", f"md5:{'A' * 32}"])
def test_unreadable_checksum(text):
    with pytest.raises(ValueError, match=r"is no checksum; expected KIND:HEX with md5, sha256, git"):
        RemoteFile("a", (), text)
