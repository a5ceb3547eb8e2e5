"""From answers to a judgement: figures, changes, sections and the verdict of every candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic_core import to_jsonable_python

from clinipress.evidence.judged import Declared, SplitJudgement, judged, paired, statistics
from clinipress.evidence.scores import Scores
from clinipress.evidence.worth import caps
from clinipress.records.candidate import Judged, Measured, extended
from clinipress.records.judgement import Judgements
from clinipress.records.result import Interval, Reason, Rule
from clinipress.records.store import read_json, write_atomically
from clinipress.study.workbench import Piece, Workbench
from clinipress.text import STATUS_WORDS

__all__ = ["Judge"]

FILE = "judgements.json"


@dataclass(frozen=True)
class Judge:
    """Judges candidates against the root reference; sections are kept, since they take long.

    Attributes:
        declared: What the study declared of the evidence.
        rules: What must hold, sealed before the test split is opened.
        bench: Where sections are kept.
        done: (candidate, split) -> what was worked out before; names are unique in a study.
    """

    declared: Declared
    rules: tuple[Rule, ...]
    bench: Workbench
    done: dict[tuple[str, str], tuple[SplitJudgement, Judgements]] = field(default_factory=dict)

    def all(self, measured: Sequence[Piece[Measured]]) -> tuple[Piece[Judged], ...]:
        """Every candidate judged on every split it answered, the reference first."""
        root = measured[0]
        controls = {p.record.control_of: p for p in measured if p.record.control_of is not None}
        return tuple(self._judge(piece, root, controls.get(piece.name)) for piece in measured)

    def _judge(
        self, piece: Piece[Measured], root: Piece[Measured], control: Piece[Measured] | None
    ) -> Piece[Judged]:
        parts = {split: self._on_split(piece, root, split) for split in piece.scores}
        splits = {split: part for split, (part, _) in parts.items()}
        decisive = "test" if "test" in splits else "validation"
        record = extended(
            Judged,
            piece.record,
            evidence={split: part.evidence for split, part in splits.items()},
            confusion={split: part.confusion for split, part in splits.items()},
            changes={split: part.changes for split, part in splits.items() if part.verdict},
            verdict=splits[decisive].verdict,
            control=control.name if control else None,
            over_control=self._over(piece.scores, control.scores) if control else {},
            judgements={split: sections for split, (_, sections) in parts.items()},
        )
        return Piece(record, piece.file, piece.network, piece.scores)

    def _on_split(
        self, piece: Piece[Measured], root: Piece[Measured], split: str
    ) -> tuple[SplitJudgement, Judgements]:
        """Figures and verdict on one split; worked out and said once, however often asked for."""
        key = piece.name, split
        if key not in self.done:
            sections = self._sections(piece, root, split)
            scores = piece.scores[split]
            limits = () if piece is root else self._caps(root, split)
            part = judged(self.declared, self.rules, root.scores[split], scores, sections, limits)
            if part.verdict is not None:
                word = STATUS_WORDS[part.verdict.status]
                self.bench.progress.say(f"{piece.name}: {word} on {split}")
            self.done[key] = part, sections
        return self.done[key]

    def _caps(self, root: Piece[Measured], split: str) -> tuple[Reason, ...]:
        """Why no verdict on a split is better than inconclusive, whoever is judged."""
        declared, data = self.declared, self.bench.data
        return caps(
            declared.risk,
            declared.floors,
            declared.rule_changes,
            root.scores[split],
            self._on_split(root, root, split)[0].evidence,
            baseline=data.baseline,
            baseline_accuracy=data.audit.baseline_accuracy,
            may_have_seen=self.bench.study.may_have_seen_test(data.split.shared_with_test),
            shared=data.split.shared_with_test,
        )

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
        # all that `statistics` is given, so that nothing it reads can change unnoticed
        inputs = {
            "split": split,
            "reference": {name: scores.digest for name, scores in root.scores.items()},
            "candidate": {name: scores.digest for name, scores in piece.scores.items()},
            "declared": to_jsonable_python(declared.of_sections()),
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
