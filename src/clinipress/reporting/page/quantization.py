"""What runs in low precision, how it was chosen, and which images had no say in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clinipress.records.candidate import Applied, CandidateRecord
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.parts import grid, shortened
from clinipress.reporting.view import View
from clinipress.reporting.wording.numbers import NOT_MEASURED, counted, percent
from clinipress.text import IN_FLOAT, fixed, joined

__all__ = ["quantization_section"]

FULL = ("float32", "float16")
METHODS = {"runtime": "the toolchain's own"}


def quantization_section(view: View) -> doc.Section | None:
    """One block per file in low precision, and what could not be made; None when there is none."""
    blocks: list[doc.Box] = [_block(record, step) for record, step in _quantized(view)]
    if missing := view.result.not_made:
        reasons: list[doc.Content] = [f"{file.name}: {file.reason}" for file in missing]
        blocks.append(doc.Box([doc.Heading("Not made"), doc.Bullets(reasons)]))
    if not blocks:
        return None
    lead = (
        "Counted in the files themselves, after the runtime has optimised them: what is named int8 "
        "and runs in float shows here."
    )
    return doc.Section(
        "quantization", "What runs in low precision", lead, blocks, short="Low precision"
    )


def _quantized(view: View) -> Iterator[tuple[CandidateRecord, Applied]]:
    for record in view.candidates:
        if record.precision not in FULL and record.history:
            yield record, record.history[-1]


def _block(record: CandidateRecord, step: Applied) -> doc.Box:
    facts = step.facts
    return doc.Box(
        [
            doc.Heading(record.name),
            doc.Paragraph(_layers(record, facts)),
            _in_float(facts.get("in_float", ())),
            doc.Paragraph(_ranges(record, step)),
            _unlearnt(record),
            _left_out(facts.get("left_out", ())),
            _trials(facts.get("trials", ())),
            _placement(facts.get("placement")),
        ]
    )


def _layers(record: CandidateRecord, facts: Mapping[str, Any]) -> str:
    """How many layers of each kind compute in low precision."""
    layers = facts.get("layers", {})
    parts = [f"{low} of {every} {kind}" for kind, (low, every) in layers.items() if every]
    counts = ", ".join(parts) if parts else NOT_MEASURED
    text = f"In {record.precision} arithmetic: {counts}."
    warning = facts.get("warning")
    return f"{text} This is not what the file is named after: {warning}." if warning else text


def _in_float(names: Sequence[str]) -> doc.Paragraph | None:
    """Layers that compute in float, by name."""
    return doc.Paragraph(f"Stays in float, where {IN_FLOAT}: {joined(names)}.") if names else None


def _unlearnt(record: CandidateRecord) -> doc.Paragraph | None:
    """What training for 8 bits did not round, by name."""
    parts: dict[str, str] = {}
    for past in record.history:
        if past.step == "qat":
            missed = past.params.get("activations_not_learnt", {})
            parts |= {name: f"of {kind}" for name, kind in missed.items()}
            parts |= past.facts.get("weights_not_rounded", {})
    if not parts:
        return None
    named = joined([f"{name} ({why})" for name, why in parts.items()])
    return doc.Paragraph(f"Not rounded in quantization-aware training: {named}.")


def _ranges(record: CandidateRecord, step: Applied) -> str:
    """Where the ranges of the activations come from."""
    if any(past.step == "qat" for past in record.history) and step.params.get("calibration_images"):
        lost = step.facts.get("lost")
        learnt = "The ranges of the activations were learnt in quantization-aware training"
        return f"{learnt}; {lost}." if lost else f"{learnt}."
    count = step.params.get("calibration_images")
    if not count:
        return "No calibration: the activations stay in float, or find their ranges as they run."
    images = counted(int(count), "un-augmented training image")
    origin = step.facts.get("ranges")
    by = f", as {origin} chose them" if origin and origin not in METHODS else ""
    by = ", as the toolchain chose them" if origin in METHODS else by
    return f"The ranges of the activations come from {images}{by}."


def _left_out(keys: Sequence[str]) -> doc.Paragraph | None:
    """Calibration images of another kind, by name: somebody should look at them."""
    if not keys:
        return None
    images = counted(len(keys), "calibration image")
    return doc.Paragraph(
        [
            f"{images} excited the network more than twice as much as the others and had no say "
            "in the ranges; look whether they belong to the data: ",
            ", ".join(str(key) for key in shortened(list(keys))),
            ".",
        ],
        "note",
    )


def _trials(trials: Sequence[Mapping[str, Any]]) -> doc.Details | None:
    """Every way of quantizing that was tried, on training images."""
    if len(trials) < 2:
        return None
    rows: list[list[doc.Content]] = [
        [
            METHODS.get(trial["method"], trial["method"]),
            _choice(trial.get("equalize")),
            _choice(trial.get("bias_correction")),
            f"{fixed(trial['decibels'], 1)} dB",
            percent(trial["agreement"]),
        ]
        for trial in trials
    ]
    heads = ["Ranges", "Equalized", "Biases corrected", "Signal to noise", "Agreement"]
    title = f"What was tried, on training images and blends of them ({len(trials)})"
    return doc.Details(title, grid(heads, rows, "plain counts"))


def _choice(value: bool | None) -> str:
    """Toolchains other than ours keep this to themselves."""
    return "its own choice" if value is None else "yes" if value else "no"


def _placement(placement: Mapping[str, Any] | None) -> doc.Box | None:
    """Which groups of layers stayed in float, and why."""
    if not placement:
        return None
    groups = len(placement["groups"])
    rows: list[list[doc.Content]] = [
        [
            f"{len(trial['low'])} of {groups}",
            percent(trial["agreement"]),
            f"{fixed(trial['decibels'], 1)} dB",
            f"{trial['time']:.2f}",
            f"{trial['file_bytes'] / 1e6:.2f} MB",
        ]
        for trial in placement["trials"]
    ]
    heads = ["Groups in 8 bits", "Agreement", "Signal to noise", "Time over float32", "File"]
    taken = f"{len(placement['taken'])} of {groups} groups of layers compute in 8 bits: "
    return doc.Box(
        [
            doc.Paragraph([taken, placement["reason"]]),
            doc.Details(
                f"Every placement that was tried ({len(rows)})", grid(heads, rows, "plain counts")
            ),
        ]
    )
