"""The sections that account: the data, the split, what is not shown, how to do it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from clinipress.records.candidate import (
    Applied,
    CandidateRecord,
)
from clinipress.records.result import (
    DuplicatePair,
)
from clinipress.reporting.drawing.markup import Child, Markup, tag
from clinipress.reporting.drawing.parts import (
    MANY,
    badge,
    bullets,
    facts,
    folded,
    grid,
    section,
    shortened,
)
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
    target_name,
)
from clinipress.reporting.wording.sentences import (
    audit_sentence,
    limits_sentence,
    split_sentence,
    trail_sentence,
)
from clinipress.text import (
    capital,
    tally,
)

__all__ = ["data_section", "limits_section", "trail_section"]

LONG = 160  # letters of one value that are shown


# --------------------------------------------------------------------------------------- the data


def data_section(view: View) -> Markup:
    """What the audit found, and how the images were divided and sealed."""
    return section(
        "data",
        "The data",
        audit_sentence(view),
        _warnings(view),
        tag("h3", "Images in each class"),
        _counts(view),
        tag("h3", "How they were divided and sealed"),
        tag("p", split_sentence(view)),
        _openings(view),
        tag("h3", "Findings of the audit"),
        _findings(view),
        tag("h3", "Can the classes be told apart without looking?"),
        _shortcuts(view),
    )


def _warnings(view: View) -> Markup | None:
    warnings = view.result.audit.warnings
    if not warnings:
        return tag("p", "The audit gave no warning.", class_="note")
    return tag(
        "div",
        tag("strong", counted(len(warnings), "warning")),
        bullets(warnings),
        class_="warnings",
    )


def _counts(view: View) -> Markup:
    """Images of each class: found, published splits if any, and the splits used."""
    audit, used = view.result.audit, view.result.split.counts
    columns: dict[str, Mapping[str, int]] = {"Found": audit.classes}
    columns |= {f"Published {name}": counts for name, counts in audit.splits.items()}
    columns |= {capital(SPLIT_NAMES.get(name, name)): counts for name, counts in used.items()}
    names = list(dict.fromkeys([*view.result.classes, *audit.classes]))
    rows: list[list[Child]] = [
        [name, *[f"{counts.get(name, 0):,}" for counts in columns.values()]] for name in names
    ]
    rows.append(["All", *[f"{sum(counts.values()):,}" for counts in columns.values()]])
    units = view.result.split.units
    if units:
        by_column = {capital(SPLIT_NAMES.get(name, name)): number for name, number in units.items()}
        kind = "Patients" if view.result.split.by == "patient" else "Clusters or units"
        rows.append([kind, *[f"{by_column[c]:,}" if c in by_column else "" for c in columns]])
    return grid(["Class", *columns], rows, "plain counts")


def _openings(view: View) -> Markup:
    split = view.result.split
    items: list[Child] = [
        f"{moment(opening.when)}: opened for {', '.join(opening.candidates)} ({opening.reason})"
        for opening in view.result.test_openings
    ]
    if not items:
        items = ["The sealed test images were never opened."]
    items.append(f"{counted(split.dropped, 'image')} left out of all splits; seed {split.seed}.")
    items.append(["Digest of the split file: ", tag("code", split.digest)])
    return bullets(shortened(items))


def _pair(pair: DuplicatePair) -> str:
    sides = [
        f"{path} ({label}{f', {split}' if split else ''})"
        for path, label, split in (
            (pair.a, pair.label_a, pair.split_a),
            (pair.b, pair.label_b, pair.split_b),
        )
    ]
    kind = "same file" if pair.exact else f"correlation {pair.correlation:.3f}"
    return f"{sides[0]} and {sides[1]}: {kind}"


def _findings(view: View) -> Markup:
    audit = view.result.audit
    blocks: list[tuple[str, list[Child]]] = [
        ("Unreadable files", [f"{one.path}: {one.reason}" for one in audit.unreadable]),
        ("Copies with different labels", [_pair(one) for one in audit.conflicting_labels]),
        ("Images that leak across published splits", _crossing(audit.leaks, audit.leaked_images)),
        ("Patients that leak across published splits", _crossing(audit.patient_leaks, {})),
        ("Groups in the metadata", _groups(audit.groups)),
        ("Duplicate pairs", [_pair(one) for one in audit.duplicate_pairs]),
    ]
    numbers = facts(
        [
            ("Images", f"{audit.images:,}"),
            ("Layout", audit.layout),
            ("Patients", f"{audit.patients:,}" if audit.patients is not None else "not known"),
            ("Exact copies", f"{audit.exact_duplicates:,}"),
            ("Near-duplicates", f"{audit.near_duplicates:,}"),
            ("Clusters of look-alikes", f"{audit.clusters:,}"),
            ("Unreadable files", f"{len(audit.unreadable):,}"),
            ("Copies with different labels", f"{len(audit.conflicting_labels):,}"),
        ],
        "facts short",
    )
    lists = [
        folded(f"{title} ({len(items):,})", bullets(shortened(items), "long"))
        for title, items in blocks
        if items
    ]
    return tag("div", numbers, lists)


def _crossing(counts: Mapping[str, int], names: Mapping[str, Sequence[str]]) -> list[Child]:
    found: list[Child] = []
    for where, number in counts.items():
        examples = ", ".join(names.get(where, ())[:3])
        found.append(f"{where}: {number:,}" + (f" (such as {examples})" if examples else ""))
    return found


def _groups(groups: Mapping[str, Mapping[str, int]]) -> list[Child]:
    return [f"{column}: {tally(list(values.items())[:MANY])}" for column, values in groups.items()]


def _shortcuts(view: View) -> Markup:
    """A baseline that sees only facts about the files, beside the models."""
    audit, reference = view.result.audit, view.reference
    majority = audit.majority_accuracy
    measured = reference.evidence.get(view.compared_split or "test", {}) if reference else {}
    lines = facts(
        [
            (
                "Always answering the most frequent class",
                percent(majority) if majority is not None else NOT_MEASURED,
            ),
            (
                "File statistics alone (cross-validated)",
                figure_interval("accuracy", audit.baseline_accuracy),
            ),
            ("The reference model", figure_interval("accuracy", measured.get("accuracy"))),
        ]
    )
    ranked = sorted(audit.shortcuts, key=lambda s: (not s.warning, -s.auroc.value))
    rows: list[list[Child]] = [
        [
            feature_name(one),
            target_name(one),
            figure_interval("auroc", one.auroc),
            tag("strong", "warning") if one.warning else "no warning",
        ]
        for one in ranked[:MANY]
    ]
    if not rows:
        return tag("div", lines, tag("p", f"Shortcuts: {NOT_MEASURED}.", class_="note"))
    table = grid(["Fact about the file", "Class it gives away", "AUROC", "Finding"], rows, "plain")
    more = len(ranked) - MANY
    note = tag("p", f"{more:,} weaker ones are in the record.", class_="note") if more > 0 else None
    return tag("div", lines, table, note)


# ------------------------------------------------------------------------------ what is not shown


def limits_section(view: View) -> Markup:
    """Reservations, each from a fact."""
    found = limits(view)
    return section(
        "limits", "What this does not show", limits_sentence(len(found)), bullets(found, "limits")
    )


# ---------------------------------------------------------------------------------- to do it again


def trail_section(view: View) -> Markup:
    """Recipe, versions, digests, machine, durations, history of each candidate."""
    return section(
        "trail",
        "How to do it again",
        trail_sentence(view),
        tag("h3", "How each candidate was made"),
        [_history(view, number, record) for number, record in view.numbered()],
        tag("h3", "Machine and versions"),
        _machine(view),
        tag("h3", "The study file"),
        folded("Recipe", tag("pre", tag("code", _recipe(view.result.recipe)), tabindex="0")),
    )


def _recipe(recipe: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(recipe, default=str))
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=90))


def _machine(view: View) -> Markup:
    env, result = view.result.environment, view.result
    packages = ", ".join(f"{name} {version}" for name, version in sorted(env.packages.items()))
    spent = [(stage.replace("_", " "), duration(took)) for stage, took in result.seconds.items()]
    return facts(
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


def _history(view: View, number: int, record: CandidateRecord) -> Markup:
    """What was done to make a candidate, its parent's steps left to the parent's entry."""
    parent = next((one for one in view.candidates if one.name == record.parent), None)
    steps = record.history[_shared(record.history, parent.history if parent else ()) :]
    chain = " \u2192 ".join(step.step for step in record.history) or "taken as it was"
    origin = f"from {record.parent}: " if record.parent else ""
    title = [tag("strong", f"{number} {record.name}"), f" {chain} "]
    verdict = badge(record.verdict) if record is not view.reference else None
    return folded(
        [title, verdict],
        tag("p", capital(f"{origin}{counted(len(steps), 'step')} of its own."), class_="note"),
        tag("ol", [tag("li", _step(step)) for step in steps]) if steps else None,
        _file_facts(record),
    )


def _shared(mine: Sequence[Applied], theirs: Sequence[Applied]) -> int:
    """How many steps two histories begin with in common."""
    pairs = enumerate(zip(mine, theirs, strict=False))
    return next((n for n, (one, other) in pairs if one != other), min(len(mine), len(theirs)))


def _step(step: Applied) -> list[Child]:
    blocks: list[Child] = [tag("strong", step.step)]
    for title, values in (("parameters", step.params), ("what came of it", step.facts)):
        if values:
            pairs = [[tag("b", f"{name}:"), f" {text}"] for name, text in flatten(values)]
            blocks += [tag("span", title, class_="small"), bullets(pairs, "params")]
    return blocks


def _file_facts(record: CandidateRecord) -> Markup:
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
    return facts(
        [
            ("File", [record.path, f" ({record.file_bytes:,} bytes)"]),
            ("sha256", tag("code", record.digest)),
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
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found += flatten(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", _value(value)))
    return found


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        if any(isinstance(one, (list, tuple, Mapping)) for one in value) and len(value) > 3:
            return f"list of {counted(len(value), 'entry', 'entries')}, in the record"
        shown = ", ".join(_value(one) for one in value[:MANY])
        return shown + (f", \u2026 ({len(value):,} in all)" if len(value) > MANY else "") or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONG else f"{text[:LONG]}\u2026"
