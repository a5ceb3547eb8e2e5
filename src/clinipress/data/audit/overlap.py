"""Images that a study has seen, recognised in another set: what is not from elsewhere.

The run folder keeps thumbnails and looks as the audit does (`clinipress.data.audit.duplicates`). A
bundle carries none, since a thumbnail is a patient's picture: it has eight bytes of each file's
sha256 and 512 signs of brightness differences. Half-size JPEG copies at quality 75 differ in 11 of
these (median; 20 and 24 in colour skin images and brain MRI) and images of other chests in 40 or
more (the nearest of 250,000 pairs of 64-pixel X-rays; CT slices of other sets in 82 or more).

Copies that were mirrored, rotated by quarter turns or inverted are looked for, too. Bodies are
nearly symmetric, but other brains and chests stay 62 signs or more apart however they are turned
(394 MRI slices beside 2,870, and 429 X-rays beside 571).
"""

from __future__ import annotations

import io
import itertools
import secrets
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from clinipress.data.audit.duplicates import LARGEST_DISTANCE, SMALLEST_CORRELATION, normalised
from clinipress.data.audit.fingerprints import Fingerprints
from clinipress.errors import DataError
from clinipress.kinds.image.twins import THUMBNAIL, fine_hashes
from clinipress.text import joined

__all__ = ["Seen", "Twins"]

LARGEST_FINE_DISTANCE = 36  # of 512 signs
MIDDLE = slice(1, 3)  # the signs across of the middle rows, which tell most: looked at first
BLOCK = 512
DIGEST_BYTES = 8
SALT_BYTES = 16


@dataclass(frozen=True)
class Twins:
    """Which images of another set the study has, too.

    Attributes:
        exact: bool ``[n]``: the same file, or the same pixels.
        near: bool ``[n]``: nearly the same picture, and not `exact`.
        twin: int64 ``[n]``, number of the study's image; -1 where there is none.
        turned: ``[n]``, how the near ones differ: "mirrored", "rotated", "inverted", several of
            them, or "".
    """

    exact: NDArray[np.bool_]
    near: NDArray[np.bool_]
    twin: NDArray[np.int64]
    turned: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """The images of a study, as far as they have to be known again.

    Attributes:
        digests: uint64 ``[n]``, the first eight bytes of each file's sha256.
        fine: uint64 ``[n, 8]``, `fine_hashes`.
        keys: Names; empty in a bundle.
        dhash: uint64 ``[n]``; empty in a bundle.
        thumbnails: uint8 ``[n, 32, 32]``; empty in a bundle.
        patients: uint64 ``[p]``, salted hashes of the patients' identifiers, sorted; empty in a
            bundle and where none is known.
        salt: uint8 ``[16]``; empty likewise.
    """

    digests: NDArray[np.uint64]
    fine: NDArray[np.uint64]
    keys: tuple[str, ...] = ()
    dhash: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    thumbnails: NDArray[np.uint8] = field(
        default_factory=lambda: np.empty((0, THUMBNAIL, THUMBNAIL), np.uint8)
    )

    patients: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    salt: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))

    @classmethod
    def of(cls, fingerprints: Fingerprints, patients: Iterable[str | None] = ()) -> Seen:
        """All images of a set that could be read, and all its patients."""
        salt = np.frombuffer(secrets.token_bytes(SALT_BYTES), np.uint8)
        named = sorted({patient for patient in patients if patient is not None})
        rows = np.flatnonzero(fingerprints.readable)
        thumbnails = fingerprints.thumbnails[rows]
        return cls(
            _digests([fingerprints.sha256[row] for row in rows]),
            fine_hashes(thumbnails),
            tuple(fingerprints.keys[row] for row in rows),
            fingerprints.dhash[rows],
            thumbnails,
            np.sort(_salted(salt, named)),
            salt,
        )

    def names(self, patients: Sequence[str | None]) -> NDArray[np.bool_] | None:
        """Bool ``[n]``, which of these the study names, too; None where either side names none."""
        known = [patient is not None for patient in patients]
        if not len(self.patients) or not any(known):
            return None
        hashes = _salted(self.salt, [patient or "" for patient in patients])
        return np.asarray(known) & np.isin(hashes, self.patients)

    def __len__(self) -> int:
        return len(self.digests)

    def anonymous(self) -> Seen:
        """Without names, pictures and order: what may travel in a bundle."""
        order = np.lexsort((*self.fine.T, self.digests))
        return Seen(self.digests[order], self.fine[order])

    def to_bytes(self) -> bytes:
        """An ``.npz`` without pickles."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"digests": self.digests, "fine": self.fine}
        if self.keys:
            keys = np.asarray(self.keys, dtype=np.str_)
            arrays |= {"keys": keys, "dhash": self.dhash, "thumbnails": self.thumbnails}
            arrays |= {"patients": self.patients, "salt": self.salt}
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    def and_of(self, other: Seen) -> Seen:
        """The images of two studies; without names and pictures, unless one holds all of both."""
        for larger, smaller in ((self, other), (other, self)):
            if np.isin(smaller.digests, larger.digests).all() and len(larger.keys) >= len(
                smaller.keys
            ):
                return larger
        a, b = self.anonymous(), other.anonymous()
        return Seen(np.concatenate([a.digests, b.digests]), np.concatenate([a.fine, b.fine]))

    @classmethod
    def load(cls, path: Path) -> Seen | None:
        """What `to_bytes` wrote; None where there is no such file, as in runs of 0.1.0.

        Raises:
            DataError: The file is damaged.
        """
        if not path.is_file():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            keys = tuple(str(key) for key in arrays.pop("keys", ()))
            return cls(keys=keys, **arrays)
        except (OSError, EOFError, KeyError, TypeError, ValueError, BadZipFile, zlib.error) as why:
            raise DataError(
                f"fingerprints of the study's images in '{path}'", str(why), "run the study again"
            ) from None

    def twins(self, others: Fingerprints) -> Twins:
        """Look for each of `others` among the study's images; the unreadable have no twin."""
        n = len(others.keys)
        exact, near = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        twin = np.full(n, -1, np.int64)
        readable = np.flatnonzero(others.readable)
        if not len(self) or not len(readable):
            return Twins(exact, near, twin, ("",) * n)
        order = np.argsort(self.digests)
        digests = _digests([others.sha256[row] for row in readable])
        place = np.minimum(np.searchsorted(self.digests[order], digests), len(self) - 1)
        same = self.digests[order][place] == digests
        exact[readable[same]] = True
        twin[readable[same]] = order[place[same]]
        rest = readable[~same]
        turned = np.full(n, "", object)
        for start in range(0, len(rest), BLOCK):
            rows = rest[start : start + BLOCK]
            best, close, equal = self._nearest(others, rows)
            exact[rows], near[rows] = equal, close & ~equal
            twin[rows[close]] = best[close]
            left = rows[~close]
            twin[left], turned[left] = self._turned(others.thumbnails[left])
            near[left] = twin[left] >= 0
        return Twins(exact, near, twin, tuple(turned.tolist()))

    def _turned(self, theirs: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
        """For each thumbnail the likest image of the study that it is when turned, or -1; how."""
        least = np.full(len(theirs), LARGEST_FINE_DISTANCE + 1)
        twin, how = np.full(len(theirs), -1, np.int64), np.full(len(theirs), "", object)
        for kind, thumbnails in _turns(theirs):
            hashes = fine_hashes(thumbnails)
            middle = _distances(hashes[:, MIDDLE], self.fine[:, MIDDLE]) <= LARGEST_FINE_DISTANCE
            # two pictures with next to no edges are no copies, however few signs differ
            middle &= (np.bitwise_count(hashes).sum(axis=1) > 2 * LARGEST_FINE_DISTANCE)[:, None]
            a, b = np.nonzero(middle)
            distance = np.bitwise_count(hashes[a] ^ self.fine[b]).sum(axis=1).astype(np.int64)
            for pair in np.flatnonzero(distance <= LARGEST_FINE_DISTANCE):
                row, mine, far = a[pair], b[pair], distance[pair]
                if far < least[row] and self._alike(mine, thumbnails[row]):
                    least[row], twin[row], how[row] = far, mine, kind
        return twin, how

    def _alike(self, number: int, thumbnail: NDArray[np.uint8]) -> bool:
        """Whether the study's image correlates with the thumbnail, too; a bundle cannot tell."""
        if not len(self.thumbnails):
            return True
        mine, theirs = normalised(np.stack([self.thumbnails[number], thumbnail]))
        return bool(mine @ theirs >= SMALLEST_CORRELATION)

    def _nearest(
        self, others: Fingerprints, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """The likest image of the study for each row; whether it is near; whether it is equal."""
        theirs = others.thumbnails[rows]
        if not len(self.thumbnails):
            distance = _distances(fine_hashes(theirs), self.fine)
            best = distance.argmin(axis=1)
            near = distance[np.arange(len(rows)), best] <= LARGEST_FINE_DISTANCE
            return best, near, np.zeros(len(rows), np.bool_)
        likeness = np.where(
            _distances(others.dhash[rows, None], self.dhash[:, None]) <= LARGEST_DISTANCE,
            normalised(theirs) @ normalised(self.thumbnails).T,
            -1.0,
        )
        best = likeness.argmax(axis=1)
        near = likeness[np.arange(len(rows)), best] >= SMALLEST_CORRELATION
        equal = near & (theirs == self.thumbnails[best]).all(axis=(1, 2))
        return best, near, equal


def _digests(sha256: list[str]) -> NDArray[np.uint64]:
    raw = b"".join(bytes.fromhex(text)[:DIGEST_BYTES] for text in sha256)
    return np.frombuffer(raw, ">u8").astype(np.uint64)


def _salted(salt: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.uint64]:
    return _digests([sha256(salt.tobytes() + name.encode()).hexdigest() for name in names])


def _turns(thumbnails: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The other seven symmetries of the square, and all eight with grey levels inverted."""
    every = itertools.product((False, True), range(4), (False, True))
    for inverted, quarters, mirrored in itertools.islice(every, 1, None):
        # a half turn of a mirror image is one that was mirrored upside down
        rotated = quarters % 2 == 1 or (quarters == 2 and not mirrored)
        words = {"mirrored": mirrored, "rotated": rotated, "inverted": inverted}
        turned = np.rot90(thumbnails, quarters, axes=(1, 2))[:, :, :: -1 if mirrored else 1]
        picture = np.subtract(255, turned, dtype=np.uint8) if inverted else turned
        yield joined([word for word, true in words.items() if true]), np.ascontiguousarray(picture)


def _distances(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Bits that differ between hashes ``[n, words]`` and ``[m, words]``: uint16 ``[n, m]``."""
    distance = np.zeros((len(a), len(b)), np.uint16)
    for word in range(a.shape[1]):
        distance += np.bitwise_count(a[:, word, None] ^ b[None, :, word])
    return distance
