"""The sections that account: the data, the split, what is not shown, how to do it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from clinipress.records.candidate import Applied, CandidateRecord
from clinipress.records.item import plural_of
from clinipress.records.result import DuplicatePair, LeftOut
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.parts import MANY, badge, grid, shortened, small
from clinipress.reporting.view import View
from clinipress.reporting.wording.limits import limits
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    counted,
    duration,
    figure_interval,
    large,
    megabytes,
    milliseconds,
    moment,
    percent,
    significant,
)
from clinipress.reporting.wording.phrases import (
    SPLIT_NAMES,
    feature_name,
    split_name,
    target_name,
    unit_words,
)
from clinipress.reporting.wording.sentences import (
    audit_sentence,
    limits_sentence,
    split_sentence,
    trail_sentence,
)
from clinipress.text import capital, joined, tally, true_minus

__all__ = ["data_section", "limits_section", "trail_section"]

LONG = 160  # letters of one value that are shown


# --------------------------------------------------------------------------------------- the data


def data_section(view: View) -> doc.Section:
    """What the audit found, and how the images were divided and sealed."""
    return doc.Section(
        "data",
        "The data",
        audit_sentence(view),
        [
            _warnings(view),
            doc.Heading(f"Images {'that show' if view.several else 'in'} each {view.noun}"),
            _counts(view),
            doc.Heading("How they were divided and sealed"),
            doc.Paragraph(split_sentence(view)),
            _openings(view),
            doc.Heading("Findings of the audit"),
            _findings(view),
            doc.Heading(view.told("Can file properties alone predict the class?")),
            _shortcuts(view),
        ],
        short="Data",
    )


def _warnings(view: View) -> doc.Box | doc.Paragraph:
    warnings = view.result.audit.warnings
    if not warnings:
        return doc.Paragraph("The audit gave no warning.", "note")
    return doc.Box(
        [doc.Text(counted(len(warnings), "warning"), "strong"), doc.Bullets(warnings)], "warnings"
    )


def _counts(view: View) -> doc.DataTable | doc.Details:
    """Images of each class: found, published splits if any, and the splits used."""
    audit, used = view.result.audit, view.result.split.counts
    columns: dict[str, Mapping[str, int]] = {"Found": audit.classes}
    columns |= {f"Published {name}": counts for name, counts in audit.splits.items()}
    columns |= {capital(SPLIT_NAMES.get(name, name)): counts for name, counts in used.items()}
    names = list(dict.fromkeys([*view.classes, *audit.classes]))
    rows: list[list[doc.Content]] = [
        [name, *[f"{counts.get(name, 0):,}" for counts in columns.values()]] for name in names
    ]
    if view.several:  # one image may stand in several rows
        sizes = {capital(SPLIT_NAMES.get(n, n)): view.result.split.size(n) for n in used}
        all_images = {"Found": audit.images} | sizes
        totals = [f"{all_images[name]:,}" if name in all_images else "" for name in columns]
        rows.append(["All images", *totals])
    else:
        rows.append(["All", *[f"{sum(counts.values()):,}" for counts in columns.values()]])
    units = view.result.split.units
    if units:
        by_column = {capital(SPLIT_NAMES.get(name, name)): number for name, number in units.items()}
        kind = capital(unit_words(view.result.split)[1])
        rows.append([kind, *[f"{by_column[c]:,}" if c in by_column else "" for c in columns]])
    table = grid([capital(view.noun), *columns], rows, "plain counts")
    if view.lost_most_first(names)[1]:
        return doc.Details(f"All {len(names)} findings", table)
    return table


def _openings(view: View) -> doc.Bullets:
    split = view.result.split
    items: list[doc.Content] = [
        f"{moment(opening.when)}: opened for {', '.join(opening.candidates)} ({opening.reason})"
        for opening in view.result.test_openings
    ]
    if not items:
        items = ["The sealed test images were never opened."]
    items.append(f"{counted(split.dropped, 'image')} left out of all splits; seed {split.seed}.")
    items.append(["Digest of the split file: ", doc.Text(split.digest, "code")])
    return doc.Bullets(shortened(items))


def _pair(pair: DuplicatePair) -> str:
    sides = [
        f"{path} ({label}{f', {split}' if split else ''})"
        for path, label, split in (
            (pair.a, pair.label_a, pair.split_a),
            (pair.b, pair.label_b, pair.split_b),
        )
    ]
    kind = "same file" if pair.exact else f"correlation {pair.correlation:.3f}"
    apart = f"; they differ in {joined(pair.findings)}" if pair.findings else ""
    return f"{sides[0]} and {sides[1]}: {kind}{apart}"


def _findings(view: View) -> doc.Box:
    audit = view.result.audit
    blocks: list[tuple[str, list[doc.Content]]] = [
        ("Unreadable files", [f"{file.path}: {file.reason}" for file in audit.unreadable]),
        ("Copies with different labels", [_pair(pair) for pair in audit.conflicting_labels]),
        ("Images that leak across published splits", _crossing(audit.leaks, audit.leaked_images)),
        ("Patients that leak across published splits", _crossing(audit.patient_leaks, {})),
        ("Groups in the metadata", _groups(audit.groups)),
        ("Duplicate pairs", [_pair(pair) for pair in audit.duplicate_pairs]),
        ("Found in the folder and not used", [_left_out(entry) for entry in audit.left_out]),
    ]
    numbers = doc.Facts(
        [
            ("Images", f"{audit.images:,}"),
            ("Layout", audit.layout),
            ("Patients", f"{audit.patients:,}" if audit.patients is not None else "not known"),
            *((capital(plural_of(k)), f"{n:,}") for k, n in audit.units.items() if k != "patient"),
            ("Exact copies", f"{audit.exact_duplicates:,}"),
            ("Near-duplicates", f"{audit.near_duplicates:,}"),
            ("Clusters of look-alikes", f"{audit.clusters:,}"),
            ("Unreadable files", f"{len(audit.unreadable):,}"),
            ("Copies with different labels", f"{len(audit.conflicting_labels):,}"),
            ("Found and not used", f"{sum(entry.count for entry in audit.left_out):,}"),
        ],
        "facts short",
    )
    lists = [
        doc.Details(f"{title} ({len(items):,})", doc.Bullets(shortened(items), "long"))
        for title, items in blocks
        if items
    ]
    return doc.Box([numbers, lists])


def _left_out(entry: LeftOut) -> str:
    several = f", {entry.count:,} in all" if entry.count > 1 else ""
    return f"{entry.path} ({entry.kind}{several}): {entry.reason}"


def _crossing(counts: Mapping[str, int], names: Mapping[str, Sequence[str]]) -> list[doc.Content]:
    leaks: list[doc.Content] = []
    for where, number in counts.items():
        examples = ", ".join(names.get(where, ())[:3])
        leaks.append(f"{where}: {number:,}" + (f" (such as {examples})" if examples else ""))
    return leaks


def _groups(groups: Mapping[str, Mapping[str, int]]) -> list[doc.Content]:
    return [f"{column}: {tally(list(values.items())[:MANY])}" for column, values in groups.items()]


def _shortcuts(view: View) -> doc.Box:
    """A baseline that sees only facts about the files, beside the models."""
    audit, reference = view.result.audit, view.reference
    majority = audit.majority_accuracy
    split = view.compared_split or "test"
    measured = reference.evidence.get(split, {}) if reference else {}
    facts = []
    if not view.several:
        facts = [
            (
                "Always answering the most frequent class, all images",
                percent(majority) if majority is not None else NOT_MEASURED,
            ),
            (
                "File statistics alone, all images (cross-validated)",
                figure_interval("accuracy", audit.baseline_accuracy),
            ),
            (
                f"The reference model, {split_name(split)} images",
                figure_interval("accuracy", measured.get("accuracy")),
            ),
        ]
    lines = doc.Facts(facts) if facts else None
    ranked = sorted(audit.shortcuts, key=lambda s: (not s.warning, -s.auroc.value))
    rows: list[list[doc.Content]] = [
        [
            feature_name(shortcut),
            target_name(shortcut),
            figure_interval("auroc", shortcut.auroc),
            doc.Text("warning", "strong") if shortcut.warning else "no warning",
        ]
        for shortcut in ranked[:MANY]
    ]
    if not rows:
        return doc.Box([lines, doc.Paragraph(f"Shortcuts: {NOT_MEASURED}.", "note")])
    gives = f"{capital(view.noun)} it gives away"
    table = grid(["Fact about the file", gives, "AUROC", "Conclusion"], rows, "plain")
    more = len(ranked) - MANY
    note = doc.Paragraph(f"{more:,} weaker ones are in the record.", "note") if more > 0 else None
    return doc.Box([lines, table, note])


# ------------------------------------------------------------------------------ what is not shown


def limits_section(view: View) -> doc.Section:
    """Reservations, each from a fact."""
    reservations = limits(view)
    content = doc.Bullets(reservations, "limits")
    lead = limits_sentence(len(reservations))
    return doc.Section("limits", "Limitations", lead, content, short="Limitations")


# ---------------------------------------------------------------------------------- to do it again


def trail_section(view: View) -> doc.Section:
    """Recipe, versions, digests, machine, durations, history of each candidate."""
    return doc.Section(
        "trail",
        "Reproduce this report",
        trail_sentence(view),
        [
            doc.Heading("How each candidate was made"),
            [_history(view, number, record) for number, record in view.numbered()],
            doc.Heading("Machine and versions"),
            _machine(view),
            doc.Heading("The study file"),
            doc.Details("Recipe", doc.CodeBlock(_recipe(view.result.recipe))),
        ],
        short="Reproduce",
    )


def _recipe(recipe: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(recipe, default=str))
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=90))


def _machine(view: View) -> doc.Facts:
    env, result = view.result.environment, view.result
    packages = ", ".join(f"{name} {version}" for name, version in sorted(env.packages.items()))
    spent = [(stage.replace("_", " "), duration(took)) for stage, took in result.seconds.items()]
    return doc.Facts(
        [
            ("clinipress", env.clinipress),
            ("Python", env.python),
            ("System", env.platform),
            ("Processor", f"{env.cpu}, {counted(env.cores, 'core')}"),
            ("Processor flags", ", ".join(env.cpu_flags) or NOT_MEASURED),
            ("Memory", megabytes(env.memory_bytes)),
            ("Packages", packages or NOT_MEASURED),
            ("Durations", tally(spent) or NOT_MEASURED),
            ("Bundle", result.bundle or "none written"),
            ("Record", f"schema version {result.schema_version}"),
        ]
    )


def _history(view: View, number: int, record: CandidateRecord) -> doc.Details:
    """What was done to make a candidate, its parent's steps left to the parent's entry."""
    parent = view.named(record.parent)
    steps = record.history[_shared(record.history, parent.history if parent else ()) :]
    chain = " \u2192 ".join(step.step for step in record.history) or "taken as it was"
    origin = f"from {record.parent}: " if record.parent else ""
    name = doc.Text(f"{number} {record.name}", "strong")
    verdict = badge(record.verdict) if record is not view.reference else None
    return doc.Details(
        [name, f" {chain} ", verdict],
        [
            doc.Paragraph(capital(f"{origin}{counted(len(steps), 'step')} of its own."), "note"),
            doc.Bullets([_step(step, view) for step in steps], ordered=True) if steps else None,
            _file_facts(record),
        ],
    )


def _shared(mine: Sequence[Applied], theirs: Sequence[Applied]) -> int:
    """How many steps two histories begin with in common."""
    pairs = enumerate(zip(mine, theirs, strict=False))
    return next((n for n, (own, other) in pairs if own != other), min(len(mine), len(theirs)))


def _step(step: Applied, view: View) -> list[doc.Content]:
    blocks: list[doc.Content] = [doc.Text(step.step, "strong")]
    for title, values in (("parameters", step.params), ("what came of it", step.facts)):
        if values:
            entries: list[doc.Content] = [
                [
                    doc.Text(
                        f"{name.replace('_accuracy', '_auroc' if view.several else '_accuracy')}:",
                        "bold",
                    ),
                    f" {text}",
                ]
                for name, text in flatten(values)
            ]
            blocks += [small(title), doc.Bullets(entries, "params")]
    return blocks


def _file_facts(record: CandidateRecord) -> doc.Facts:
    timing, whole, parity = record.latency_ms, record.latency_with_preprocessing_ms, record.parity
    measured = NOT_MEASURED
    if timing is not None:
        measured = (
            f"{counted(timing.repeats, 'call')} of {counted(timing.batch, 'image')}, "
            f"{counted(timing.threads, 'thread')}, {timing.runtime}"
        )
    equal = NOT_MEASURED
    if parity is not None:
        equal = (
            f"{counted(parity.label_flips, 'answer')} changed on "
            f"{counted(parity.images, 'image')}; largest difference of a logit "
            f"{significant(parity.max_logit_difference)}"
        )
    operators = tally(record.low_precision_operators.items())
    return doc.Facts(
        [
            ("File", [record.path, f" ({record.file_bytes:,} bytes)"]),
            ("sha256", doc.Text(record.digest, "code")),
            ("Parameters, multiply-adds", f"{large(record.parameters)}, {large(record.macs)}"),
            ("How it was timed", measured),
            ("With reading and decoding the file", milliseconds(whole.median if whole else None)),
            ("File against its parent", equal),
            ("Operators in low precision", operators or NOT_MEASURED),
            ("Answers per image", ", ".join(record.per_image.values()) or NOT_MEASURED),
        ]
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested parameters as "dotted.name", "value"; long lists and texts are cut, and say so."""
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            pairs += flatten(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", _value(value)))
    return pairs


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        if any(isinstance(entry, (list, tuple, Mapping)) for entry in value) and len(value) > 3:
            return f"list of {counted(len(value), 'entry', 'entries')}, in the record"
        shown = ", ".join(_value(entry) for entry in value[:MANY])
        return shown + (f", \u2026 ({len(value):,} in all)" if len(value) > MANY else "") or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    text = true_minus(f"{value:.6g}") if isinstance(value, float) else str(value)
    return text if len(text) <= LONG else f"{text[:LONG]}\u2026"
