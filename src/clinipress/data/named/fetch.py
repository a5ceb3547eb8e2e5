"""Files from the web, only when asked for: resumed after a cut, whole or not at all, checked.

The only module that opens a connection or names kagglehub. What arrives is first NAME.part beside
NAME.part.json, which says what the server calls the file, so that two versions are never joined.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from clinipress.errors import DataError, StudyError
from clinipress.extras import require
from clinipress.progress import SILENT, Progress
from clinipress.records.store import storage, write_atomically

__all__ = ["NOT_KNOWN", "Download", "Receipt", "download", "from_kaggle", "verify"]

NOT_KNOWN = "checksum not known"
_CHUNK = 2**20
_TIMEOUT = 60  # seconds without a byte
_ATTEMPTS = 4  # in a row that brought no byte
_PAUSE = 1.0  # seconds after the first such attempt, doubled after each
_LARGEST = 50 * 2**30  # bytes of one file where its size is not known beforehand
_AT_HOME = frozenset({"localhost", "127.0.0.1", "::1"})
_RANGE_REFUSED = 416


@dataclass(frozen=True)
class Download:
    """One file to get.

    Attributes:
        name: What it is called on disk.
        url: Where it is; https.
        sha256: Of its content, where a source says so.
        md5: The same for sources that say no more than that: it finds damage, not malice.
        size: Bytes, where known.
    """

    name: str
    url: str
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Receipt:
    """What came.

    Attributes:
        name: As on disk.
        url: Where it was asked for.
        size: Bytes.
        sha256: Of what came, whatever was known before.
        checked: "sha256", "md5", or that no checksum is known.
    """

    name: str
    url: str
    size: int
    sha256: str
    checked: str

    def as_facts(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def download(wanted: Download, folder: Path, *, progress: Progress = SILENT) -> Receipt:
    """Get one file into `folder`, made if it is not there, or find that it is there already.

    A cut connection is taken up where it broke, within this call and in the next one.

    Raises:
        DataError: The address is refused or gone, or what came is not what is known.
        StudyError: The connection failed for good; what came so far is kept.
        StorageError: There is no room.
    """
    _check_address(wanted.url)
    target, part = folder / wanted.name, folder / f"{wanted.name}.part"
    if target.is_file():
        return verify(wanted, target)
    with storage(f"'{wanted.name}'"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise DataError(f"a folder at '{folder}'", "a file") from None
        _bring(wanted, part, progress)
        try:
            received = verify(wanted, part)
        except DataError:
            _forget(part)
            raise
        part.replace(target)
        _forget(part)
    return received


def from_kaggle(handle: str, folder: Path) -> Path:
    """Let kagglehub fetch a data set (OWNER/SET, or OWNER/SET/versions/N); its folder.

    It uses the account that kagglehub is set up for, if any. What a run that was killed left in
    `folder` is removed, so it must be a folder of its own.

    Raises:
        MissingExtraError: kagglehub is not installed.
        StudyError: It failed, in its own words.
    """
    kagglehub = require("kagglehub", extra="data", what="fetching from Kaggle")
    try:
        # unforced it refuses a folder in which a killed run left something
        return Path(kagglehub.dataset_download(handle, output_dir=str(folder), force_download=True))
    except Exception as problem:  # its errors have no common base
        raise StudyError(
            f"kaggle.com/datasets/{handle} from kagglehub",
            f"{type(problem).__name__}: {problem}",
            "download it by hand, as said without --fetch, or run the same command again",
        ) from None


def _hashes(path: Path) -> tuple[str, str]:
    strong, weak = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            strong.update(chunk)
            weak.update(chunk)
    return strong.hexdigest(), weak.hexdigest()


def verify(wanted: Download, path: Path) -> Receipt:
    """Compare a file with what is known of it.

    Raises:
        DataError: It is another one.
    """
    strong, weak = _hashes(path)
    for kind, known, digest in (("sha256", wanted.sha256, strong), ("md5", wanted.md5, weak)):
        if known is not None and known.casefold() != digest:
            raise DataError(
                f"{kind} {known} of '{wanted.name}'",
                digest,
                f"it is damaged or another version of {wanted.url}; remove it and try again",
            )
    checked = "sha256" if wanted.sha256 else "md5" if wanted.md5 else NOT_KNOWN
    return Receipt(wanted.name, wanted.url, path.stat().st_size, strong, checked)


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    at_home = parts.scheme == "http" and parts.hostname in _AT_HOME
    if parts.scheme != "https" and not at_home:
        raise DataError("an https address", f"'{url}'")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _bring(wanted: Download, part: Path, progress: Progress) -> None:
    """Fill `part`, however often the connection breaks."""
    progress.start(wanted.name, wanted.size or 0)
    progress.advance(wanted.name, _length(part))
    fruitless = 0
    while True:
        before = _length(part)
        try:
            _receive(wanted, part, progress)
            break
        except (http.client.HTTPException, OSError) as problem:
            if isinstance(problem, OSError) and _is_about_the_disk(problem):
                raise
            fruitless = 0 if _length(part) > before else fruitless + 1
            if fruitless >= _ATTEMPTS:
                raise StudyError(
                    f"all of {wanted.url}",
                    f"{_length(part):,} bytes ({problem or type(problem).__name__})",
                    "run the same command again; what came is kept",
                ) from None
            time.sleep(_PAUSE * 2**fruitless if fruitless else 0)
    progress.finish(wanted.name)


def _is_about_the_disk(problem: OSError) -> bool:
    """A connection's errors name no file; those of opening and writing one do, or ENOSPC."""
    return problem.filename is not None or problem.errno in (errno.ENOSPC, errno.EDQUOT)


def _receive(wanted: Download, part: Path, progress: Progress) -> None:
    """One connection's worth of bytes."""
    have, version = _length(part), _version(part)
    headers = {"User-Agent": "clinipress", "Accept-Encoding": "identity"}
    if have and version:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    opener = urllib.request.build_opener(_SafeRedirects())
    request = urllib.request.Request(wanted.url, headers=headers)
    try:
        with opener.open(request, timeout=_TIMEOUT) as reply:
            goes_on = reply.status == http.client.PARTIAL_CONTENT and _starts_at(reply, have)
            start = have if goes_on else 0
            total = _total(wanted, reply.headers, start)
            _check_room(part, total, start)
            if not goes_on:
                _note_version(part, reply.headers)
            with part.open("ab" if goes_on else "wb") as sink:
                _copy(reply, sink, wanted, start, total, progress)
    except urllib.error.HTTPError as problem:
        problem.close()
        _explain(wanted, part, problem.code)


def _explain(wanted: Download, part: Path, code: int) -> None:
    """Raise what an HTTP error means: ConnectionError where another attempt is worth it."""
    if code == _RANGE_REFUSED:  # nothing is left, or the file has changed: begin anew to know
        _forget(part)
        raise ConnectionError("the server could not go on where it stopped")
    busy = code in (http.client.REQUEST_TIMEOUT, http.client.TOO_MANY_REQUESTS)
    if busy or code >= http.client.INTERNAL_SERVER_ERROR:
        raise ConnectionError(f"HTTP {code}")
    raise DataError(
        f"a file at {wanted.url}",
        f"HTTP {code}",
        "it may have moved: get it by hand, as said without --fetch",
    )


def _copy(
    reply: IO[bytes],
    sink: IO[bytes],
    wanted: Download,
    start: int,
    total: int | None,
    progress: Progress,
) -> None:
    count = start
    most = total if total is not None else _LARGEST
    while chunk := reply.read(_CHUNK):
        count += len(chunk)
        if count > most:
            raise DataError(f"at most {most:,} bytes from {wanted.url}", "one that goes on")
        sink.write(chunk)
        progress.advance(wanted.name, len(chunk))
    if total is not None and count < total:
        raise ConnectionError(f"{total - count:,} bytes are missing")


def _total(wanted: Download, headers: Mapping[str, str], start: int) -> int | None:
    """Bytes of the whole file as the server has it; it must agree with what is known."""
    declared = headers.get("Content-Length", "")
    total = start + int(declared) if declared.isdigit() else wanted.size
    most = wanted.size if wanted.size is not None else _LARGEST
    if total is not None and (total > most or (wanted.size is not None and total != most)):
        raise DataError(
            f"{'' if wanted.size else 'at most '}{most:,} bytes from {wanted.url}", f"{total:,}"
        )
    return total


def _starts_at(reply: Any, have: int) -> bool:
    """Whether a partial answer is the part that was asked for."""
    if str(reply.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
        return True
    raise ConnectionError("the server sent another part than was asked for")


def _check_room(part: Path, total: int | None, start: int) -> None:
    if total is not None:
        free = shutil.disk_usage(part.parent).free
        if total - start > free:
            raise DataError(f"room for {total - start:,} bytes", f"{free:,} in '{part.parent}'")


def _length(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _note_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _note_version(part: Path, headers: Mapping[str, str]) -> None:
    """Keep a strong name of this version; without one a cut download starts anew."""
    tag = headers.get("ETag", "")
    version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
    part.unlink(missing_ok=True)  # first: a kill between the two must not join two versions
    write_atomically(_note_of(part), json.dumps({"version": version}))


def _version(part: Path) -> str:
    try:
        return str(json.loads(_note_of(part).read_text())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)
