"""From answers to a judgement: figures, changes, sections and the verdict of every candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clinipress.evidence.judged import Declared, judged, paired, statistics
from clinipress.evidence.scores import Scores
from clinipress.records.candidate import Judged, Measured
from clinipress.records.judgement import Judgements
from clinipress.records.result import Interval, Rule
from clinipress.records.store import digest_of, read_json, write_atomically
from clinipress.study.workbench import Piece, Workbench

__all__ = ["Judge"]

FILE = "judgements.json"


@dataclass(frozen=True)
class Judge:
    """Judges candidates against the root reference; sections are kept, since they take long.

    Attributes:
        declared: What the study declared of the evidence.
        rules: What must hold, declared before anything was measured.
        bench: Where sections are kept.
    """

    declared: Declared
    rules: tuple[Rule, ...]
    bench: Workbench

    def all(self, measured: Sequence[Piece[Measured]]) -> tuple[Piece[Judged], ...]:
        """Every candidate judged on every split it answered, the reference first."""
        root = measured[0]
        controls = {p.record.control_of: p for p in measured if p.record.control_of is not None}
        return tuple(self._judge(piece, root, controls.get(piece.name)) for piece in measured)

    def _judge(
        self, piece: Piece[Measured], root: Piece[Measured], control: Piece[Measured] | None
    ) -> Piece[Judged]:
        judgements = {split: self._sections(piece, root, split) for split in piece.scores}
        splits = {
            split: judged(self.declared, self.rules, root.scores[split], scores, judgements[split])
            for split, scores in piece.scores.items()
        }
        decisive = "test" if "test" in splits else "validation"
        facts = {name: getattr(piece.record, name) for name in Measured.model_fields}
        record = Judged(
            **facts,
            evidence={split: part.evidence for split, part in splits.items()},
            confusion={split: part.confusion for split, part in splits.items()},
            changes={split: part.changes for split, part in splits.items() if part.verdict},
            verdict=splits[decisive].verdict,
            control=control.name if control else None,
            over_control=self._over(piece.scores, control.scores) if control else {},
            judgements=judgements,
        )
        return Piece(record, piece.file, piece.network, piece.scores)

    def _over(
        self, mine: Mapping[str, Scores], control: Mapping[str, Scores]
    ) -> dict[str, dict[str, Interval]]:
        """What the teacher gave: the candidate minus its control, paired."""
        return {
            split: paired(self.declared, control[split], scores)
            for split, scores in mine.items()
            if split in control
        }

    def _sections(self, piece: Piece[Measured], root: Piece[Measured], split: str) -> Judgements:
        """The sections of a candidate, or those that were made before of the same answers."""
        declared, bench = self.declared, self.bench
        inputs = {
            "reference": root.file.digest,
            "candidate": piece.file.digest,
            "split": split,
            "data": bench.data.digest,
            "groups": digest_of(dict(piece.scores[split].groups)),
            "asked": [declared.risk, str(declared.resamples), str(declared.seed)],
            "recipe": declared.recipe.model_dump(mode="json"),
        }

        def make(folder: Path) -> None:
            sections = statistics(
                declared,
                root.scores[split],
                piece.scores[split],
                validation=(root.scores["validation"], piece.scores["validation"]),
            )
            write_atomically(folder / FILE, sections.model_dump_json(indent=1))

        with bench.times.phase("evidence"):
            folder = bench.store.once("judgements", inputs, make, packages=("numpy",))
        return Judgements.model_validate(read_json(folder / FILE))
