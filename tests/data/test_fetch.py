"""Downloads from a local server that cuts, lies, changes its mind and goes away."""

import errno
import hashlib
import http.server
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from clinipress.data.named import fetch
from clinipress.data.named.fetch import NOT_KNOWN, Download, download, from_kaggle, verify
from clinipress.errors import DataError, MissingExtraError, StorageError, StudyError

CONTENT = bytes(range(256)) * 4096 * 3  # 3 MiB, so that it takes several chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Web:
    """What the server does, and what it was asked."""

    content: bytes = CONTENT
    tag: str = '"one"'
    cut_after: list[int] = field(default_factory=list)  # bytes of each reply before a cut
    statuses: list[int] = field(default_factory=list)  # of the first replies
    ranges: bool = True
    redirect: str = ""
    claim: int | None = None
    says_length: bool = True
    part_sent: int = 0  # a shift of where a partial answer says it starts
    pause: float = 0.0
    asked: list[str | None] = field(default_factory=list)
    sent: int = 0
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    web: Web

    def do_GET(self):
        self.web.asked.append(self.headers.get("Range"))
        if self.web.statuses:
            self.send_error(self.web.statuses.pop(0))
            return
        if self.web.redirect and self.path == "/file":
            self.send_response(302)
            self.send_header("Location", self.web.redirect)
            self.end_headers()
            return
        self.reply()

    def reply(self):
        start = self.start()
        if start >= len(self.web.content):
            self.send_error(416)
            return
        body = self.web.content[start:]
        self.send_response(206 if start else 200)
        if start:
            size = len(self.web.content)
            self.send_header(
                "Content-Range", f"bytes {start + self.web.part_sent}-{size - 1}/{size}"
            )
        if self.web.says_length:
            self.send_header("Content-Length", str(self.web.claim or len(body)))
        if self.web.tag:
            self.send_header("ETag", self.web.tag)
        self.end_headers()
        if self.web.cut_after:
            body = body[: self.web.cut_after.pop(0)]
        for at in range(0, len(body), 65536):
            self.wfile.write(body[at : at + 65536])
            self.web.sent += len(body[at : at + 65536])
            time.sleep(self.web.pause)
        self.close_connection = True

    def start(self):
        asked = self.headers.get("Range")
        if asked and self.web.ranges and self.headers.get("If-Range") == self.web.tag:
            return int(asked.removeprefix("bytes=").removesuffix("-"))
        return 0

    def log_message(self, *_):
        pass


@pytest.fixture
def web(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch, "_PAUSE", 0.0)
    state = Web()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Bound", (Handler,), {"web": state})
    )
    server.handle_error = lambda *_: None  # a client that was killed is meant
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/file"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_comes_whole_and_is_checked(web, tmp_path):
    got = download(Download("a.bin", web.url, DIGEST, size=len(CONTENT)), tmp_path / "deep" / "er")
    assert (tmp_path / "deep" / "er" / "a.bin").read_bytes() == CONTENT
    assert (got.sha256, got.size, got.checked) == (DIGEST, len(CONTENT), "sha256")
    assert [f.name for f in (tmp_path / "deep" / "er").iterdir()] == ["a.bin"]


def test_a_file_that_is_there_is_checked_and_not_asked_for_again(web, tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    assert download(Download("a.bin", web.url, DIGEST), tmp_path).sha256 == DIGEST
    (tmp_path / "a.bin").write_bytes(b"other")
    with pytest.raises(DataError, match=DIGEST):
        download(Download("a.bin", web.url, DIGEST), tmp_path)
    assert web.asked == []


def test_without_a_known_checksum_it_says_so_and_records_what_came(web, tmp_path):
    got = download(Download("a.bin", web.url), tmp_path)
    assert (got.checked, got.sha256) == (NOT_KNOWN, DIGEST)


def test_md5_is_compared_where_nothing_better_is_known(web, tmp_path):
    right = hashlib.md5(CONTENT).hexdigest()
    assert download(Download("a.bin", web.url, md5=right), tmp_path).checked == "md5"
    with pytest.raises(DataError, match="md5 0000"):
        download(Download("b.bin", web.url, md5="0000"), tmp_path)


def test_cut_connections_are_taken_up_where_they_broke(web, tmp_path):
    web.cut_after = [1_000_000, 70_000, 900_000]
    download(Download("a.bin", web.url, DIGEST), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert web.asked == [None, "bytes=1000000-", "bytes=1070000-", "bytes=1970000-"]
    assert web.sent == len(CONTENT)  # not a byte twice


def test_a_wrong_checksum_leaves_nothing_behind(web, tmp_path):
    with pytest.raises(DataError, match="sha256 1111"):
        download(Download("a.bin", web.url, "1111"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_versions_are_never_joined(web, tmp_path):
    web.cut_after = [500_000] + [0] * 10
    with pytest.raises(StudyError, match="run the same command again"):
        download(Download("a.bin", web.url), tmp_path)
    assert (tmp_path / "a.bin.part").stat().st_size == 500_000
    web.content, web.tag, web.cut_after = CONTENT[::-1], '"two"', []
    download(Download("a.bin", web.url), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_without_a_strong_name_of_the_version_it_starts_anew(web, tmp_path, tag):
    web.tag, web.cut_after = tag, [500_000]
    download(Download("a.bin", web.url, DIGEST), tmp_path)
    assert web.asked == [None, None]


def test_a_server_without_ranges_sends_all_again(web, tmp_path):
    web.ranges, web.cut_after = False, [500_000]
    download(Download("a.bin", web.url, DIGEST), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_that_is_already_whole_is_not_spoilt(web, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    (tmp_path / "a.bin.part.json").write_text(json.dumps({"version": web.tag}))
    download(Download("a.bin", web.url, DIGEST), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_damaged_note_means_a_new_start(web, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"rubbish")
    (tmp_path / "a.bin.part.json").write_text("{")
    download(Download("a.bin", web.url, DIGEST), tmp_path)
    assert web.asked == [None]


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(web, tmp_path):
    web.statuses = [503, 429, 500]
    download(Download("a.bin", web.url, DIGEST), tmp_path)
    assert len(web.asked) == 4
    web.statuses = [404, 404]
    with pytest.raises(DataError, match="HTTP 404"):
        download(Download("b.bin", web.url), tmp_path)
    assert len(web.asked) == 5


def test_a_server_that_never_recovers_ends_in_one_line(web, tmp_path):
    web.statuses = [503] * 50
    with pytest.raises(StudyError, match="HTTP 503"):
        download(Download("a.bin", web.url), tmp_path)
    assert len(web.asked) == fetch._ATTEMPTS


def test_no_server_at_all(web, tmp_path):
    with pytest.raises(StudyError, match="0 bytes"):
        download(Download("a.bin", "http://127.0.0.1:9/nothing"), tmp_path)


def test_another_size_than_known_is_refused_before_it_comes(web, tmp_path):
    with pytest.raises(DataError, match=f"{len(CONTENT):,}"):
        download(Download("a.bin", web.url, size=1000), tmp_path)
    assert not (tmp_path / "a.bin").exists()


def test_more_than_the_disk_holds_is_refused_before_it_comes(web, tmp_path):
    web.claim = 2**45
    with pytest.raises(DataError, match="bytes"):
        download(Download("a.bin", web.url), tmp_path)
    free = SimpleNamespace(free=10)
    web.claim = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch.shutil, "disk_usage", lambda _: free)
        with pytest.raises(DataError, match="room for 3,145,728 bytes"):
            download(Download("a.bin", web.url), tmp_path)


def test_a_reply_without_length_is_taken_whole_but_not_for_ever(web, tmp_path, monkeypatch):
    web.says_length = False
    download(Download("a.bin", web.url, DIGEST), tmp_path)
    monkeypatch.setattr(fetch, "_LARGEST", 2**20)
    with pytest.raises(DataError, match="one that goes on"):
        download(Download("b.bin", web.url), tmp_path)
    with pytest.raises(DataError, match="one that goes on"):
        download(Download("c.bin", web.url, size=2**20), tmp_path)


def test_another_part_than_was_asked_for_is_never_joined(web, tmp_path):
    web.cut_after, web.part_sent = [500_000], 1
    with pytest.raises(StudyError, match="another part"):
        download(Download("a.bin", web.url), tmp_path)
    assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:500_000]


def test_a_full_disk_is_said_at_once(web, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "_copy", full)
    with pytest.raises(StorageError, match="full disk"):
        download(Download("a.bin", web.url), tmp_path)
    assert len(web.asked) == 1


def test_a_folder_that_cannot_be_written(web, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="a folder at"):
        download(Download("a.bin", web.url), tmp_path / "file")
    assert web.asked == []


@pytest.mark.parametrize("url", ["http://example.org/a", "file:///etc/passwd", "ftp://h/a", "a"])
def test_only_https_and_this_machine(url, tmp_path):
    with pytest.raises(DataError, match="https"):
        download(Download("a.bin", url), tmp_path)


def test_a_redirect_cannot_lead_where_a_download_may_not(web, tmp_path):
    web.redirect = "http://example.org/elsewhere"
    with pytest.raises(DataError, match=r"example\.org"):
        download(Download("a.bin", web.url), tmp_path)
    web.redirect = web.url.replace("/file", "/other")
    download(Download("a.bin", web.url, DIGEST), tmp_path)


def test_progress_counts_every_byte_once(web, tmp_path):
    seen = []
    listener = SimpleNamespace(
        start=lambda what, total: seen.append(("start", total)),
        advance=lambda what, units=1, note="": seen.append(("advance", units)),
        finish=lambda what, note="": seen.append(("finish", what)),
    )
    web.cut_after = [1_000_000]
    download(Download("a.bin", web.url, size=len(CONTENT)), tmp_path, progress=listener)
    assert seen[0] == ("start", len(CONTENT))
    assert seen[-1] == ("finish", "a.bin")
    assert sum(n for kind, n in seen if kind == "advance") == len(CONTENT)


SCRIPT = """
import sys
from pathlib import Path
from clinipress.data.named.fetch import Download, download
download(Download("a.bin", sys.argv[1], sys.argv[2]), Path(sys.argv[3]))
"""


def test_killed_with_sigkill_and_run_again_it_goes_on(web, tmp_path):
    web.pause = 0.02
    command = [sys.executable, "-c", SCRIPT, web.url, DIGEST, str(tmp_path)]
    process = subprocess.Popen(command)
    part = tmp_path / "a.bin.part"
    end = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size > 2**20) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a.bin").exists()
    kept = part.stat().st_size
    web.pause = 0.0
    subprocess.run(command, check=True)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert web.asked == [None, f"bytes={kept}-"]


def test_kagglehub_is_asked_for_a_folder_of_its_own(monkeypatch, tmp_path):
    calls = []

    def dataset_download(handle, *, output_dir, force_download):
        calls.append((handle, output_dir, force_download))
        return output_dir

    monkeypatch.setitem(
        sys.modules, "kagglehub", SimpleNamespace(dataset_download=dataset_download)
    )
    assert from_kaggle("owner/set", tmp_path / "kaggle") == tmp_path / "kaggle"
    assert calls == [("owner/set", str(tmp_path / "kaggle"), True)]


def test_kagglehub_failing_and_missing_are_one_line_each(monkeypatch, tmp_path):
    def dataset_download(*_, **__):
        raise ValueError("403\nforbidden")

    monkeypatch.setitem(
        sys.modules, "kagglehub", SimpleNamespace(dataset_download=dataset_download)
    )
    with pytest.raises(StudyError, match="ValueError: 403 forbidden"):
        from_kaggle("owner/set", tmp_path)
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(MissingExtraError, match="fetching from Kaggle"):
        from_kaggle("owner/set", tmp_path)


def test_our_call_fits_the_real_kagglehub():
    kagglehub = pytest.importorskip("kagglehub")
    import inspect

    names = inspect.signature(kagglehub.dataset_download).parameters
    assert {"handle", "output_dir", "force_download"} <= set(names)


def test_verify_names_the_address_and_the_way_out(tmp_path):
    path = Path(tmp_path / "a")
    path.write_bytes(b"x")
    with pytest.raises(DataError, match=r"remove it and try again"):
        verify(Download("a", "https://example.org/a", "00"), path)
