"""What the records say of a study's purpose, data and model, for the items of a checklist.

One function per topic, each of the view; it gives None where the records hold nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from clinipress.recipe.techniques import technique_of
from clinipress.records.candidate import CandidateRecord
from clinipress.records.judgement import Judgements
from clinipress.records.result import Verdict
from clinipress.reporting.view import View
from clinipress.reporting.wording.limits import OWN_SPLITS
from clinipress.reporting.wording.numbers import STATUS_WORDS, counted, large
from clinipress.reporting.wording.phrases import divided, rule_phrase, split_name
from clinipress.reporting.wording.sentences import (
    audit_sentence,
    gate_sentence,
    split_sentence,
    unasked_sentence,
    withheld_sentence,
)
from clinipress.text import capital, joined, sentence, tally, trial_words, true_minus

__all__ = [
    "STUDY_TOPICS",
    "data_name",
    "judgements_of",
    "recipe_setting",
    "subject_or_reference",
    "techniques_phrase",
    "verdict_words",
]


# ----------------------------------------------------------------------------- reading the records


def recipe_setting(view: View, *path: str) -> Any:
    """A value of the study file by its path; None where it is not there."""
    value: Any = view.result.recipe
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def data_name(view: View) -> str:
    """The data set's own name, without the folders above it."""
    return PurePath(view.result.audit.path).name or "data"


def judgements_of(view: View, record: CandidateRecord | None = None) -> Judgements:
    """The sections of a candidate (None: the subject) on the study's own images."""
    chosen = record or view.subject
    if chosen is None:
        return Judgements()
    splits = (view.judged_split(chosen), view.compared_split, *view.splits)
    own = (chosen.judgements.get(split) for split in splits if split in OWN_SPLITS)
    return next((judgements for judgements in own if judgements is not None), Judgements())


def verdict_words(verdict: Verdict) -> str:
    """A section's verdict: its word, and its reasons as the record has them."""
    return f"{STATUS_WORDS[verdict.status]}: {' '.join(verdict.texts)}".rstrip(": ")


def step_words(kind: str) -> str:
    """What a step did, as a noun."""
    return technique_of(kind).title or kind


def techniques_phrase(record: CandidateRecord) -> str:
    """What was done to make a candidate, in order: "distillation, export to int8"."""
    words = [step_words(step.step) for step in record.history if step.step != "export"]
    return ", then ".join([*words, f"export as {record.format} in {record.precision}"])


def subject_or_reference(view: View) -> CandidateRecord | None:
    """What is set beside the reference; where there is nothing, the reference itself."""
    return view.subject or view.reference


def _networks(view: View) -> list[str]:
    """The reference's network and the students', as the study names them."""
    specs = [recipe_setting(view, "reference", "model")]
    specs += [
        step.get("student") for step in recipe_setting(view, "steps") or () if step.get("student")
    ]
    names = [(spec or {}).get("name") or (spec or {}).get("factory") for spec in specs]
    return list(dict.fromkeys(name for name in names if name))


# ------------------------------------------------------------------------------ purpose and design


def _technology(view: View) -> str | None:
    networks = _networks(view)
    named = f" ({joined(networks)})" if networks else ""
    subject = view.subject
    made = f"; compressed by {techniques_phrase(subject)}" if subject else ""
    classes = counted(len(view.result.classes), view.noun, view.nouns)
    what = (
        f"detection of {classes} in images"
        if view.several
        else (f"classification of images into {classes}")
    )
    return f"Deep learning{named}: {what}{made}."


def _purpose(view: View) -> str | None:
    text = recipe_setting(view, "intended_use")
    return f"As the study file says: \u201c{sentence(text)}\u201d" if text else None


def _hypothesis(view: View) -> str | None:
    rule = view.primary
    if rule is None:
        return None
    return (
        "Whether a compressed model is not inferior to its reference on the same images, by limits "
        f"declared beforehand: {rule_phrase(rule, view.noun)}."
    )


# ----------------------------------------------------------------------------------------- the data


def _source(view: View) -> str | None:
    audit = view.result.audit
    trial = trial_words(audit.images, audit.trial_of)
    text = f"Data set \u201c{data_name(view)}\u201d ({audit.layout}). {audit_sentence(view)}"
    return f"{text} {trial}" if trial else text


def _excluded(view: View) -> str | None:
    unreadable, dropped = len(view.result.audit.unreadable), view.result.split.dropped
    return (
        f"{counted(unreadable, 'unreadable file')} set aside; "
        f"{counted(dropped, 'image')} left out of all splits."
    )


def _preprocessing(view: View) -> str | None:
    image_input = recipe_setting(view, "data", "input")
    if not image_input:
        return None
    kind = "grey" if image_input.get("channels") == 1 else "RGB"
    window = image_input.get("window")
    grey = (
        true_minus(f"window {window[0]:g} to {window[1]:g}")
        if window
        else "grey levels of the file"
    )
    return (
        f"Every image is brought to {image_input.get('height')} x {image_input.get('width')} "
        f"pixels, {kind}, fitted by \u201c{image_input.get('fit')}\u201d; {grey}. "
        "Scaling is part of the network."
    )


def _preparation(view: View) -> str | None:
    return " ".join(text for text in (_preprocessing(view), audit_sentence(view)) if text)


def _missing(view: View) -> str | None:
    return (
        "The image is the only input. "
        f"{counted(len(view.result.audit.unreadable), 'unreadable file')} set aside, none replaced."
    )


def _labels(view: View) -> str | None:
    return sentence(f"Labels are taken as found: {joined(list(view.classes))}")


def _conflicts(view: View) -> str | None:
    conflicts = len(view.result.audit.conflicting_labels)
    pairs = counted(conflicts, "pair of copies carries", "pairs of copies carry")
    return f"Of the same picture, {pairs} different labels." if conflicts else None


def _disjoint(view: View) -> str | None:
    split = view.result.split
    return f"{capital(divided(split))}: {split.reason.rstrip('.')}."


def _size(view: View) -> str | None:
    images = view.result.split.size(view.compared_split or "test")
    needed = view.result.verdict.cases_needed
    more = f" About {counted(needed, 'image')} would decide." if needed else ""
    where = split_name(view.compared_split or "test")
    return f"{counted(images, f'{where} image')} were judged.{more}"


def _counts(view: View) -> str | None:
    texts = [
        f"{split_name(split)}: {tally(by_class.items())}"
        for split, by_class in view.result.split.counts.items()
    ]
    return capital("; ".join(texts)) + "." if texts else None


def _numbers(view: View) -> str | None:
    return f"{audit_sentence(view)} {_excluded(view)} {split_sentence(view)}"


def _groups(view: View) -> str | None:
    groups = view.result.audit.groups
    texts = [f"{column}: {tally(values.items())}" for column, values in groups.items()]
    return ("; ".join(texts) + "." if texts else "") + withheld_sentence(view) or None


def _difference(view: View) -> str | None:
    if any(split not in OWN_SPLITS for split in view.splits):
        return None
    return f"Both are parts of one data set. {split_sentence(view)}"


# ---------------------------------------------------------------------------------------- the model


def _model(view: View) -> str | None:
    subject, reference = view.subject, view.reference
    pair = [candidate for candidate in (reference, subject) if candidate is not None]
    texts = [
        f"{candidate.name}: {large(candidate.parameters)} parameters, "
        f"{large(candidate.macs)} multiply-adds, file {candidate.path} (sha256 {candidate.digest})"
        for candidate in pair
    ]
    networks = _networks(view)
    named = f"{joined(networks)}. " if networks else ""
    return f"{named}{'; '.join(texts)}. {_output(view)}" if texts else None


def _output(view: View) -> str | None:
    classes = counted(len(view.result.classes), view.noun, view.nouns)
    answer = "the largest is the answer"
    if view.several:
        answer = "each is called at or above a threshold of its own"
        calibration = judgements_of(view).calibration
        limits = calibration.thresholds.items() if calibration else ()
        if named := ", ".join(f"{name} {limit:.3f}" for name, limit in limits):
            answer += (
                f" ({named}), where sensitivity plus specificity was largest on the validation "
                "images"
            )
        answer += f". {unasked_sentence(view)[:-1]}" if view.unasked else ""
    text = f"One probability for each of {classes}; {answer}."
    section = judgements_of(view).operating
    if section is None:
        return text
    rows = len(section.rows)
    return f"{text} {counted(rows, 'operating point')} chosen on {section.chosen_on} images."


def _software(view: View) -> str | None:
    env = view.result.environment
    packages = ", ".join(f"{name} {version}" for name, version in sorted(env.packages.items()))
    return f"clinipress {env.clinipress}, Python {env.python}, {packages}."


def _initial(view: View) -> str | None:
    specs = {"the reference": recipe_setting(view, "reference", "model")}
    specs |= {
        f"the student of step {number}": step.get("student")
        for number, step in enumerate(recipe_setting(view, "steps") or (), start=1)
    }
    origins = [f"{name} from {_origin(spec)}" for name, spec in specs.items() if _origin(spec)]
    return f"{capital(joined(origins))}." if origins else None


def _origin(spec: Mapping[str, Any] | None) -> str | None:
    """Where a network's first weights come from."""
    if not spec or "pretrained" not in spec:
        return None
    if spec.get("checkpoint"):
        return "the trained weights of a checkpoint"
    return "a pretrained backbone" if spec["pretrained"] else "random weights"


def _training(view: View) -> str | None:
    """Every training step of the subject by its main options; the rest is in the study file."""
    subject = subject_or_reference(view)
    texts = []
    for step in subject.history if subject else ():
        options = step.params.get("options") or step.params.get("train") or {}
        names: tuple[str, ...] = (
            "epochs",
            "batch_size",
            "optimizer",
            "learning_rate",
            "augmentation",
        )
        staged = options.get("stages") or ()
        if staged:  # they have rates of their own
            names = tuple(name for name in names if name != "learning_rate")
        parts = [f"{name.replace('_', ' ')} {options[name]}" for name in names if name in options]
        parts += [_stage(number, stage, options) for number, stage in enumerate(staged, start=1)]
        if parts:
            seed = step.params.get("seed")
            seeded = [f"seed {seed}"] if seed is not None else []
            texts.append(f"{step_words(step.step)}: {', '.join([*parts, *seeded])}")
    return capital("; ".join(texts)) + "." if texts else None


def _stage(number: int, stage: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """One stage of a training; what it does not name it has from the whole."""

    def own(name: str) -> Any:
        return options.get(name) if stage.get(name) is None else stage[name]

    what = "the head alone" if stage.get("train") == "head" else "all weights"
    falls = f", {own('decay')} decay" if own("decay") else ""
    layers = f", {own('layer_decay')} from layer to layer" if own("layer_decay") else ""
    epochs = counted(stage["epochs"], "epoch")
    return f"stage {number}: {what}, {epochs} at {own('learning_rate')}{falls}{layers}"


def _selection(view: View) -> str | None:
    reasons = [opening.reason for opening in view.result.test_openings]
    last = f" The test images were opened for: {reasons[-1]}." if reasons else ""
    return f"{gate_sentence(view)}{last}"


def _ensemble(view: View) -> str | None:
    return "No ensemble: every candidate is one network." if view.candidates else None


def _building(view: View) -> str | None:
    texts = (_technology(view), _training(view), _selection(view))
    return " ".join(text for text in texts if text)


def _predictors(view: View) -> str | None:
    return "The pixels of one image, and nothing else."


def _predictions(view: View) -> str | None:
    subject = view.subject
    timing = subject.latency_ms if subject else None
    if subject is None:
        return None
    runtime = f" by {timing.runtime}" if timing else ""
    return f"By the file itself ({subject.path}, sha256 {subject.digest}), run{runtime}."


def _imbalance(view: View) -> str | None:
    parts = [recipe_setting(view, "reference"), *(recipe_setting(view, "steps") or ())]
    options: list[Any] = [(part or {}).get("train") or {} for part in parts]
    weights = {str(option["class_weights"]) for option in options if "class_weights" in option}
    if not weights:
        return None
    if weights == {"none"}:
        return view.told("Classes were not weighed.")
    return f"{view.told('Class weights')} in the loss: {joined(sorted(weights))}."


STUDY_TOPICS: Mapping[str, Callable[[View], str | None]] = MappingProxyType(
    {
        "building": _building,
        "conflicts": _conflicts,
        "counts": _counts,
        "difference": _difference,
        "disjoint": _disjoint,
        "ensemble": _ensemble,
        "excluded": _excluded,
        "groups": _groups,
        "hypothesis": _hypothesis,
        "imbalance": _imbalance,
        "initial": _initial,
        "labels": _labels,
        "missing": _missing,
        "model": _model,
        "numbers": _numbers,
        "output": _output,
        "partitions": split_sentence,
        "predictions": _predictions,
        "predictors": _predictors,
        "preparation": _preparation,
        "preprocessing": _preprocessing,
        "purpose": _purpose,
        "selection": _selection,
        "size": _size,
        "software": _software,
        "source": _source,
        "technology": _technology,
        "training": _training,
    }
)
