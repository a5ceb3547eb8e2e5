"""Which file goes to which device, what each export is, and checks on other processors."""

from __future__ import annotations

from collections.abc import Sequence

from clinipress.recipe.formats import format_facts
from clinipress.records.candidate import CandidateRecord
from clinipress.records.result import DeviceCheck, Result, TargetOutcome
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.parts import grid, small
from clinipress.reporting.view import View
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    counted,
    megabytes,
    milliseconds,
    significant,
    times,
)
from clinipress.text import joined

__all__ = ["devices_section", "format_words"]


def format_words(name: str) -> str:
    """A format's own spelling."""
    return format_facts(name).title or name


def devices_section(view: View) -> doc.Section | None:
    """None for a study without devices, exports or checks."""
    exports = [r for r in view.candidates if r.history and r.parity is not None]
    result = view.result
    if not (result.targets or result.device_checks or len(exports) > 1):
        return None
    lead = _lead(view, exports)
    return doc.Section(
        "devices",
        "Devices and files",
        lead,
        [
            _targets(view, result.targets) if result.targets else None,
            _files(view, exports),
            _checks(view, result.device_checks) if result.device_checks else None,
        ],
        short="Devices",
    )


def _lead(view: View, exports: Sequence[CandidateRecord]) -> str:
    formats = sorted({format_words(record.format) for record in exports})
    files = f"{counted(len(exports), 'file')} of {counted(len(formats), 'format')}"
    lead = f"{files} ({joined(formats)}), each loaded by its own runtime and measured there."
    if not view.result.targets:
        return lead
    served = [target.title for target in view.result.targets if target.shipped]
    missed = [target.title for target in view.result.targets if not target.shipped]
    if served:
        lead += f" Selected for {joined(served)}."
    if missed:
        lead += f" Nothing was selected for {joined(missed)}."
    return lead


def _targets(view: View, targets: Sequence[TargetOutcome]) -> doc.Box:
    rows: list[Sequence[doc.Content]] = []
    for target in targets:
        record = view.named(target.shipped)
        if record is None:
            rows.append([target.title, "nothing", "", "", "", ""])
            continue
        rows.append(
            [
                target.title,
                [record.name, small(f"{format_words(record.format)} {record.precision}")],
                target.runtime,
                megabytes(record.file_bytes),
                _time(record),
                [megabytes(record.peak_memory_bytes), small(target.bundle or "")],
            ]
        )
    heads = ["Device", "Shipped", "Runtime there", "File", "Time here", "Memory, bundle"]
    notes = [
        f"{target.title}: {joined([format_words(f) for f in target.formats_not_tried])} "
        "would run there too and was not made in this study."
        for target in targets
        if target.formats_not_tried
    ]
    notes += [
        f"{target.title}: {', '.join(target.unknown)} on the device."
        for target in targets
        if target.shipped and target.unknown
    ]
    return doc.Box([grid(heads, rows), [doc.Paragraph(note, "note") for note in notes]])


def _time(record: CandidateRecord) -> doc.Content:
    if record.latency_ms is None:
        return NOT_MEASURED
    return [milliseconds(record.latency_ms.median), small(record.latency_ms.runtime)]


def _files(view: View, exports: Sequence[CandidateRecord]) -> doc.Box:
    """Every file against its parent network, on the same real images."""
    heads = ["File", "Format", "Size", "Time here", "Against its network", "Low precision"]
    rows: list[list[doc.Content]] = [
        [
            record.name,
            [format_words(record.format), small(record.precision)],
            [megabytes(record.file_bytes), small(_smaller(view, record))],
            _time(record),
            _parity(record, view.result),
            _low(record),
        ]
        for record in exports
    ]
    changed = "answers about findings that" if view.several else "images whose class"
    rare = (
        " (of a finding that the network never calls, or always: answers that crossed over to the "
        "tenth of the images nearest to it)"
    )
    note = (
        "Against its network: largest and mean difference of a logit from the PyTorch network the "
        f"file was made of, and the {changed} changed{rare if view.several else ''}, on validation "
        "images. Low precision: layers that really compute in it, counted in the file."
    )
    return doc.Box([doc.Heading("Every file"), grid(heads, rows), doc.Paragraph(note, "note")])


def _smaller(view: View, record: CandidateRecord) -> str:
    if view.reference is None or record is view.reference:
        return "the reference"
    ratio = view.reference.file_bytes / record.file_bytes
    return f"{times(ratio)} times smaller" if ratio >= 1 else f"{times(1 / ratio)} times larger"


def _parity(record: CandidateRecord, result: Result) -> doc.Content:
    parity = record.parity
    if parity is None:
        return NOT_MEASURED
    flips = f"{parity.label_flips} of {parity.images:,} images changed class"
    if result.task == "multilabel":
        answers = parity.images * len(result.classes)
        flips = f"{parity.label_flips} of {answers:,} answers about findings changed"
    largest, mean = (
        _logits(x) for x in (parity.max_logit_difference, parity.mean_logit_difference)
    )
    return [largest if largest == mean else f"{largest}, {mean}", small(flips)]


def _logits(difference: float) -> str:
    """A difference of logits; those of rounding alone by their bound."""
    return significant(difference, 2) if difference >= 1e-4 else "under 0.0001"


def _low(record: CandidateRecord) -> str:
    layers = record.history[-1].facts.get("layers", {})
    if record.precision == "float32":
        return "none"
    if record.precision == "float16":
        return "weights and arithmetic, where the engine has it"
    parts = [f"{low} of {every} {kind}" for kind, (low, every) in layers.items() if every]
    return ", ".join(parts) or NOT_MEASURED


def _checks(view: View, checks: Sequence[DeviceCheck]) -> doc.Box:
    """Answers on another processor's instructions."""
    rows: list[list[doc.Content]] = [
        [
            check.cpu,
            [check.emulator, small(check.system)],
            [check.runtime_arm, small(f"here {check.runtime_here}")],
            f"{check.labels_equal} of {check.images}",
            f"{check.logits_bit_equal} of {check.images}",
            significant(check.largest_logit_difference, 2),
        ]
        for check in checks
    ]
    heads = [
        *("Processor", "Emulated by", "Runtime", f"Same {view.nouns if view.several else 'class'}"),
        "Same logits, to the last bit",
        "Largest difference of a logit",
    ]
    sentences = [doc.Paragraph(check.sentence, "note") for check in checks]
    title = doc.Heading("The bundle on another processor")
    return doc.Box([title, grid(heads, rows), sentences])
