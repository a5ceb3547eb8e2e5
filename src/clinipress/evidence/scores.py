"""Per-image answers of one classifier on one split: all that any statistic needs.

Kept as ``.npz`` without pickles, so that any figure can be worked out again without the model.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import DataError
from clinipress.records.store import digest_of, write_atomically
from clinipress.stats.metrics import sigmoid, softmax

__all__ = ["Scores", "asked_of_both", "without_unasked"]

PRESENT, ABSENT = "present", "absent"
TEMPERATURES = 1e-3, 1e3  # those that are fitted lie between 0.25 and 20
AND = "\t"  # between image and finding in the key of a pair
_ARRAYS = ("logits", "labels", "units", "keys")
# a header may claim more than any memory holds
_UNREADABLE = (
    *(OSError, EOFError, KeyError, MemoryError, TypeError, ValueError),
    *(BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Scores:
    """Answers of one classifier to the images of one split.

    Attributes:
        logits: float32 ``[n, k]``, finite.
        labels: int64 ``[n]`` in ``[0, k)``; of several findings ``[n, k]``: 1 present, 0 absent,
            -1 unknown.
        units: int64 ``[n]``, patient or cluster of each image.
        keys: n names.
        classes: k names in the order of the logits.
        positive: The finding of a two-class task; None: none was named.
        normal: The class without a finding in a task of more classes, or None.
        order: The classes from the least to the gravest grade; empty: they have no order.
        temperature: The candidate's own softmax temperature, fitted on validation.
        temperatures: Of several findings, each one's own.
        thresholds: Of several findings, the calibrated probability at or above which each is
            called, chosen on validation; None: it has none and is not asked; empty: a half.
        groups: Column -> n values, "" where nothing is known.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    units: NDArray[np.int64]
    keys: tuple[str, ...]
    classes: tuple[str, ...]
    positive: str | None = None
    normal: str | None = None
    order: tuple[str, ...] = ()
    temperature: float = 1.0
    temperatures: tuple[float, ...] = ()
    thresholds: tuple[float | None, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        n = len(self.labels)
        lengths = {len(self.logits), len(self.units), len(self.keys)}
        lengths |= {len(values) for values in self.groups.values()}
        if lengths != {n} or self.logits.ndim != 2 or self.logits.shape[1] != len(self.classes):
            raise DataError(
                f"logits [{n}, {len(self.classes)}], and units, keys and groups for {n} images",
                f"logits {list(self.logits.shape)} and lengths {sorted(lengths)}",
            )
        if self.several and self.labels.shape != self.logits.shape:
            raise DataError(f"labels {list(self.logits.shape)}", f"{list(self.labels.shape)}")
        if self.several:
            self._check_findings()

    def _check_findings(self) -> None:
        k, lowest, highest = len(self.classes), *TEMPERATURES
        if not np.isin(self.labels, (-1, 0, 1)).all():
            raise DataError(
                "1 (present), 0 (absent) or -1 (unknown) for each finding",
                f"labels from {self.labels.min()} to {self.labels.max()}",
            )
        limits = tuple(limit for limit in self.thresholds if limit is not None)
        for name, values, low, high in (
            ("thresholds between 0 and 1", limits, 0.0, 1.0),
            ("temperatures above 0", self.temperatures, lowest / 2, highest * 2),
        ):
            inside = all(value is not None and low < value < high for value in values)
            if not inside:
                raise DataError(f"{k} {name}, or none", f"{list(values)}")
        if not {len(self.thresholds), len(self.temperatures)} <= {0, k}:
            raise DataError(
                f"{k} thresholds and temperatures, or none",
                f"{len(self.thresholds)} and {len(self.temperatures)}",
            )

    @property
    def several(self) -> bool:
        """Whether an image may show several findings."""
        return self.labels.ndim == 2

    @property
    def scaled(self) -> NDArray[np.float64]:
        """Logits over the temperature, float64 ``[n, k]``."""
        if not self.several:
            return self.logits.astype(np.float64) / self.temperature
        scale: NDArray[np.float64] = np.asarray(self.temperatures or 1.0, np.float64)
        return np.asarray(self.logits.astype(np.float64) / scale)

    @property
    def cuts(self) -> NDArray[np.float64]:
        """Of several findings: the scaled logits at or above which each is called, ``[k]``.

        NaN: it is not asked.
        """
        limits = np.asarray(self.thresholds or [0.5] * len(self.classes), np.float64)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(limits) - np.log1p(-limits))

    @property
    def asked(self) -> NDArray[np.bool_]:
        """Of several findings: which have a threshold to be called at, ``[k]``."""
        return ~np.isnan(self.cuts)

    def of_finding(self, number: int) -> Scores:
        """One of several findings as two classes, of the images of which it is known.

        The finding comes first, and its probability is what it was.
        """
        rows = np.flatnonzero(self.labels[:, number] >= 0)
        return self._two_classes(rows, np.full(len(rows), number), self.scaled)

    def with_cuts(self) -> Scores:
        """The same, each asked finding's logits above its threshold: called at a half then."""
        shifted = np.round(self.scaled - np.nan_to_num(self.cuts), 9)
        return replace(self, logits=shifted.astype(np.float32), temperatures=(), thresholds=())

    def called_pairs(self) -> Scores:
        """All known pairs of image and asked finding as two classes; called is "present".

        The logits are those above each finding's threshold; a unit holds all pairs of its images.
        """
        rows, findings = np.nonzero((self.labels >= 0) & self.asked)
        return self._two_classes(rows, findings, self.scaled - self.cuts)

    def pairs(self, *, raw: bool = False) -> Scores:
        """All known pairs of image and finding as two classes, scaled or as they are."""
        rows, findings = np.nonzero(self.labels >= 0)
        return self._two_classes(rows, findings, self.logits if raw else self.scaled)

    def _two_classes(
        self, rows: NDArray[np.int64], findings: NDArray[np.int64], values: NDArray[np.floating]
    ) -> Scores:
        odds = np.round(values[rows, findings].astype(np.float64), 9)  # a threshold is met, or not
        labels = self.labels[rows, findings]
        one = len({*findings.tolist()}) == 1
        name = self.classes[findings[0]] if one and len(findings) else PRESENT
        keys = (
            f"{self.keys[r]}{AND}{self.classes[f]}" for r, f in zip(rows, findings, strict=True)
        )
        return Scores(
            logits=np.stack([odds / 2, -odds / 2], axis=1).astype(np.float32),
            labels=(1 - labels).astype(np.int64),
            units=self.units[rows],
            keys=tuple(self.keys[row] for row in rows) if one else tuple(keys),
            classes=(name, f"no {name}" if one else ABSENT),
            positive=name,
            groups={c: tuple(v[row] for row in rows) for c, v in self.groups.items()},
        )

    def in_order(self, classes: tuple[str, ...]) -> Scores:
        """The same with the same classes in another order."""
        order = [self.classes.index(name) for name in classes]
        if not self.several:
            labels = np.argsort(order)[self.labels]
            return replace(self, logits=self.logits[:, order], labels=labels, classes=classes)
        return replace(
            self,
            logits=self.logits[:, order],
            labels=self.labels[:, order],
            classes=classes,
            temperatures=tuple(self.temperatures[i] for i in order if self.temperatures),
            thresholds=tuple(self.thresholds[i] for i in order if self.thresholds),
        )

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Calibrated, float64 ``[n, k]``: softmax, or of several findings sigmoids, of `scaled`."""
        return sigmoid(self.scaled) if self.several else softmax(self.scaled)

    @property
    def digest(self) -> str:
        """sha256, 64 hexadecimal digits, of all of it."""
        arrays = (self.logits, self.labels, self.units)
        hashes = [hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest() for a in arrays]
        return digest_of([hashes, self.keys, self._facts()])

    def _facts(self) -> dict[str, Any]:
        return {
            "classes": self.classes,
            "positive": self.positive,
            "normal": self.normal,
            "temperature": self.temperature,
            "groups": {column: list(values) for column, values in self.groups.items()},
            **({"order": self.order} if self.order else {}),
            **(
                {"temperatures": self.temperatures, "thresholds": self.thresholds}
                if self.several
                else {}
            ),
        }

    def save(self, path: Path) -> None:
        """Write one ``.npz``.

        Raises:
            StorageError: It cannot be written.
        """
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            logits=self.logits,
            labels=self.labels,
            units=self.units,
            keys=np.asarray(self.keys, dtype=np.str_),
            facts=np.asarray(json.dumps(self._facts())),
        )
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what `save` wrote; pickles inside are refused.

        Raises:
            DataError: It is not such a file.
        """
        try:
            # from memory: a file cut short would otherwise stay open inside numpy
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                logits, labels, units, keys = (file[name] for name in _ARRAYS)
                facts = json.loads(str(file["facts"]))
            temperature, classes = float(facts["temperature"]), tuple(facts["classes"])
            if not TEMPERATURES[0] <= temperature <= TEMPERATURES[1] or len(set(classes)) < len(
                classes
            ):
                raise ValueError(f"temperature {temperature:g} of the classes {classes}")
            return cls(
                logits=logits.astype(np.float32),
                labels=labels.astype(np.int64),
                units=units.astype(np.int64),
                keys=tuple(str(key) for key in keys),
                classes=classes,
                positive=facts["positive"],
                normal=facts.get("normal"),
                order=tuple(facts.get("order", ())),
                temperatures=tuple(facts.get("temperatures", ())),
                thresholds=tuple(facts.get("thresholds", ())),
                temperature=temperature,
                groups={name: tuple(values) for name, values in facts["groups"].items()},
            )
        except _UNREADABLE as problem:
            raise DataError(
                f"a file of per-image scores at '{path}'",
                str(problem) or type(problem).__name__,
                "name one that a run of clinipress wrote (candidates[].per_image in result.json)",
            ) from None


def without_unasked(validation: Scores) -> Scores:
    """Answers to the images thresholds were chosen on; without those that one side could not give.

    Scores that were kept before a finding could go without one have a half there.
    """
    sides = ({*column.tolist()} - {-1} for column in validation.labels.T)
    limits = zip(validation.thresholds, sides, strict=False)
    return replace(
        validation, thresholds=tuple(limit if len(pair) == 2 else None for limit, pair in limits)
    )


def asked_of_both(first: Scores, second: Scores) -> tuple[Scores, Scores]:
    """Answers of two models of the same findings; what one is not asked, neither is."""
    if not first.several:
        return first, second
    asked = first.asked & second.asked

    def fewer(scores: Scores) -> Scores:
        if asked.all():
            return scores
        limits = zip(scores.thresholds or (0.5,) * len(asked), asked, strict=True)
        return replace(scores, thresholds=tuple(limit if ask else None for limit, ask in limits))

    return fewer(first), fewer(second)
