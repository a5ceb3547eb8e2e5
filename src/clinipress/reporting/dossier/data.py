"""The dossier's data: what the records hold for a predetermined change control plan and checklists.

Its parts follow FDA's final guidance "Marketing Submission Recommendations for a Predetermined
Change Control Plan for Artificial Intelligence-Enabled Device Software Functions" (4 December 2024,
reissued 18 August 2025): description of modifications, modification protocol, impact assessment. It
supports a plan and claims nothing; what the records do not hold is left to the maker by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clinipress.records.candidate import Applied, CandidateRecord, Latency
from clinipress.records.judgement import SECTIONS
from clinipress.records.result import Result, Verdict
from clinipress.reporting.dossier.answers import TOPICS
from clinipress.reporting.dossier.answers_study import judgements_of, recipe_setting
from clinipress.reporting.dossier.checklists import CLAIM, TRIPOD_AI, Item
from clinipress.reporting.dossier.people import NOTHING_SAID, MakerAnswers
from clinipress.reporting.dossier.plan import (
    Alone,
    Answer,
    Change,
    Dossier,
    Modification,
    Part,
    Protocol,
    State,
    Tried,
)
from clinipress.reporting.page.provenance import flatten
from clinipress.reporting.view import View
from clinipress.reporting.wording.limits import limits
from clinipress.reporting.wording.numbers import finite

__all__ = ["dossier"]

# Parameters of a step that say how far it goes; the others (seeds, rows, grids) are in result.json.
TELLING = frozenset(
    {
        *(
            "activation_bits",
            "alpha",
            "batch_size",
            "beta",
            "bias_correction",
            "block",
            "criterion",
        ),
        *("criterion", "calibration_images", "calibration_method", "epochs", "equalize", "format"),
        *("learning_rate", "method", "name", "of", "per_channel", "precision", "ratio", "rounds"),
        *("scope", "smooth", "temperature", "weight_bits"),
    }
)
WRAPPERS = ("asked.train.", "asked.", "options.", "train.")  # who asks; the parameter is the same


def dossier(result: Result, answers: MakerAnswers = NOTHING_SAID) -> Dossier:
    """All that the records hold for the dossier, and what people said to it.

    Args:
        result: The record of a study; the only source of what is said of it.
        answers: What people said.
    """
    view = View(result)
    made = tuple(
        _modification(view, number, record)
        for number, record in view.numbered()
        if record is not view.reference
    )
    return Dossier(
        study=result.study,
        synthetic=result.synthetic,
        created=result.created,
        risk=result.risk,
        intended_use=recipe_setting(view, "intended_use") or None,
        reference=result.reference,
        shipped=result.shipped,
        status=result.verdict.status,
        verdict=result.verdict,
        modifications=made,
        tried=_tried(made),
        protocol=_protocol(view),
        limits=tuple(limits(view)),
        inventory=_inventory(view),
        claim_2024=_answers(view, CLAIM, answers, "claim_2024"),
        tripod_ai=_answers(view, TRIPOD_AI, answers, "tripod_ai"),
        answers={key: text for key, text in answers.answers.items() if text},
        signatures=answers.signatures,
    )


def _modification(view: View, number: int, record: CandidateRecord) -> Modification:
    split = view.change(record, view.metric)[1] or view.judged_split(record)
    own = next((s for s in (split, *view.splits) if s and s in record.over_control), "")
    return Modification(
        number=number,
        name=record.name,
        changes=tuple(_changes(view, record)),
        format=record.format,
        precision=record.precision,
        because=record.because,
        control=any(record is control for control in view.controls),
        role=view.role(record),
        reasons=_reasons(record),
        verdict=record.verdict,
        file_bytes=record.file_bytes,
        sha256=record.digest,
        file_ratio=view.size_ratio(record),
        time=view.timing(record),
        time_ratio=view.speed_ratio(record),
        peak_memory_bytes=record.peak_memory_bytes,
        split=split,
        differences={m: x for m, x in record.changes.get(split or "", {}).items() if finite(x)},
        alone=_alone(view, record, split),
        over_control=record.over_control.get(own, {}),
        sections=_sections(view, record),
    )


def _reasons(record: CandidateRecord) -> tuple[str, ...]:
    reasons = [record.rejected] if record.rejected else []
    if record.verdict is not None and record.verdict.status != "pass":
        reasons += record.verdict.texts
    return tuple(dict.fromkeys(reasons))


def _sections(view: View, record: CandidateRecord) -> dict[str, Verdict]:
    judgements = judgements_of(view, record)
    measured = {name: getattr(judgements, name) for name in SECTIONS}
    return {name: section.verdict for name, section in measured.items() if section is not None}


def _changes(view: View, record: CandidateRecord) -> Iterable[Change]:
    """Its steps, those that it shares with the reference left out."""
    root = view.reference.history if view.reference else ()
    shared = 0
    for mine, theirs in zip(record.history, root, strict=False):
        if mine != theirs:
            break
        shared += 1
    for step in record.history[shared:]:
        yield Change(step=step.step, parameters=_parameters(step))


def _parameters(step: Applied) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for path, value in flatten(step.params):
        name = path
        for wrapper in WRAPPERS:
            name = name.removeprefix(wrapper)
        if name.rpartition(".")[2] in TELLING and value != "none" and "teacher" not in name:
            parameters.setdefault(name, value)
    return parameters


def _tried(made: Sequence[Modification]) -> tuple[Tried, ...]:
    values: dict[tuple[str, str], list[str]] = {}
    for modification in made:
        for change in modification.changes:
            for name, value in change.parameters.items():
                seen = values.setdefault((change.step, name), [])
                seen += [value] if value not in seen else []
    return tuple(Tried(step=s, parameter=n, values=tuple(v)) for (s, n), v in values.items())


def _alone(view: View, record: CandidateRecord, split: str | None) -> Alone | None:
    parent = view.named(record.parent)
    if parent is None:
        return None
    both = [s for s in (split, *view.splits) if s in record.evidence and s in parent.evidence]
    shared = next(iter(both), None)
    before, after = (candidate.evidence.get(shared or "", {}) for candidate in (parent, record))
    mine, theirs = view.timing(record), view.timing(parent)
    alike = mine and theirs and _conditions(mine) == _conditions(theirs) and mine.median > 0
    alike = alike and all(x.speed is None or x.speed.reliable for x in (parent, record))
    return Alone(
        parent=parent.name,
        split=shared,
        differences={
            metric: after[metric].value - before[metric].value
            for metric in view.margins
            if finite(before.get(metric)) and finite(after.get(metric))
        },
        file_ratio=parent.file_bytes / record.file_bytes if record.file_bytes else None,
        time_ratio=theirs.median / mine.median if mine and theirs and alike else None,
    )


def _conditions(timing: Latency) -> tuple[int, int, bool]:
    return timing.batch, timing.threads, timing.preprocessing


def _said(view: View, *topics: str) -> tuple[str, ...]:
    return tuple(text for text in (TOPICS[topic](view) for topic in topics) if text)


def _protocol(view: View) -> Protocol:
    result = view.result
    return Protocol(
        rules=tuple(sorted(result.rules, key=lambda rule: not rule.primary)),
        guarding_sections=view.guards,
        divided_by=result.split.by,
        split_sha256=result.split.digest,
        openings=result.test_openings,
        data_management=_said(view, "source", "partitions", "excluded", "counts"),
        retraining=_said(view, "training", "initial", "imbalance"),
        performance_evaluation=_said(view, "metrics", "uncertainty", "internal"),
    )


def _inventory(view: View) -> tuple[Part, ...]:
    env, split = view.result.environment, view.result.split
    software = {"clinipress": env.clinipress, "Python": env.python, **env.packages}
    return (
        *(Part(kind="software", name=name, version=v) for name, v in software.items()),
        Part(kind="file", name="split.json", sha256=split.digest),
        *(
            Part(kind="file", name=candidate.path, sha256=candidate.digest)
            for candidate in view.candidates
        ),
    )


def _answers(
    view: View, items: Sequence[Item], people: MakerAnswers, checklist: str
) -> tuple[Answer, ...]:
    return tuple(_answer(view, item, people.of_item(checklist, item.number)) for item in items)


def _answer(view: View, item: Item, maker: str) -> Answer:
    text = TOPICS[item.topic](view) if item.topic else None
    state: State = "you" if text is None else "part" if item.rest else "records"
    return Answer(
        number=item.number,
        section=item.section,
        asks=item.asks,
        state=state,
        said=text,
        rest=(item.rest or None) if text is not None else None,
        maker=maker or None,
    )
