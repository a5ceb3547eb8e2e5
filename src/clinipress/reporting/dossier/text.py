"""dossier.md: the dossier's data as a document that people read, complete and sign."""

from __future__ import annotations

from collections.abc import Sequence

from clinipress.records.metrics import metric_facts
from clinipress.records.result import Result, Rule
from clinipress.reporting.dossier.data import dossier
from clinipress.reporting.dossier.impact import impact, status_word
from clinipress.reporting.dossier.people import (
    ANSWERS,
    CHOICE,
    MADE,
    NOTHING_SAID,
    PLANNED,
    UPDATES,
    MakerAnswers,
    cells,
    left,
)
from clinipress.reporting.dossier.plan import YOURS, Answer, Dossier, Modification
from clinipress.reporting.markdown import bullet_list, escape, table
from clinipress.reporting.view import View
from clinipress.reporting.wording.lead import lead, lead_sentences, privacy_sentence
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    change_interval,
    counted,
    figure,
    limit_words,
    metric_name,
    moment,
)
from clinipress.reporting.wording.phrases import size_phrase, speed_phrase, split_name
from clinipress.reporting.wording.sentences import caution_sentence, gate_sentence, rules_when
from clinipress.text import capital, joined, sentence

__all__ = ["dossier_markdown"]

ROLES = {"shipped": "selected", "candidate": "not chosen", "rejected": "rejected"}
STATES = {"records": "answered by the records", "part": "answered in part", "you": YOURS}


def dossier_markdown(result: Result, answers: MakerAnswers = NOTHING_SAID) -> str:
    """The dossier as Markdown, each part from the data of `reporting.dossier.data.dossier`.

    Args:
        result: The record of a study.
        answers: What people said to it.
    """
    data, view = dossier(result, answers), View(result)
    parts = [
        *_head(data, view, answers),
        *_description(data, answers, view),
        *_protocol(data, view, answers),
        *impact(data, view, answers),
        *_record(data, view, answers),
        *_inventory(data),
        *_checklist("6. CLAIM, 2024 update, item by item", data.claim_2024),
        *_checklist("7. TRIPOD+AI, item by item", data.tripod_ai),
        escape(privacy_sentence(view, sent=True)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(data: Dossier, view: View, answers: MakerAnswers) -> list[str]:
    first = lead(view)
    caution = caution_sentence(view)
    synthetic = "**SYNTHETIC**: drawn images, no patients." if data.synthetic else ""
    rows = [
        [name, *(str(sum(answer.state == state for answer in answers)) for state in STATES)]
        for name, answers in (
            ("CLAIM, 2024 update (44 items)", data.claim_2024),
            ("TRIPOD+AI (27 items, 52 lines)", data.tripod_ai),
        )
    ]
    return [
        f"# Dossier: {escape(data.study)}",
        f"> {escape(data.notice)}",
        synthetic,
        f"Risk class {data.risk}, {escape(moment(data.created))}.",
        f"**{first.word}**: {escape(first.headline)}",
        bullet_list(map(escape, lead_sentences(view))),
        escape(caution) if caution else "",
        f"Intended use, as the study file says: {_or_yours(data.intended_use)}",
        f"What people have to say stands in {ANSWERS} beside this file; write there, not here.",
        left(answers, MADE),
        table(["Checklist", *STATES.values()], rows),
    ]


def _or_yours(text: str | None) -> str:
    return escape(sentence(text)) if text else f"*{YOURS}*"


# ------------------------------------------------------------------- 1 description of modifications


def _description(data: Dossier, answers: MakerAnswers, view: View) -> list[str]:
    rows = [
        [str(modification.number), _name(modification, data), _steps(modification)]
        for modification in data.modifications
    ]
    tried: dict[str, list[str]] = {}
    for trial in data.tried:
        words = escape(f"{trial.parameter}: {', '.join(trial.values)}")
        tried.setdefault(trial.step, []).append(words)
    covered = [[escape(step), "; ".join(words)] for step, words in tried.items()]
    return [
        "## 1. Description of modifications",
        f"{counted(len(rows), 'modification')} of the reference. Each is a compression: the "
        f"{view.nouns} and the images that it takes stay as they are.",
        table(["", "Modification", "Steps and parameters"], rows),
        "### Values that this evidence covers",
        table(["Step", "Values"], covered) if covered else NOT_MEASURED,
        "Outside these values nothing was measured.",
        left(answers, PLANNED),
    ]


def _name(modification: Modification, data: Dossier) -> str:
    origin = f" (from {escape(modification.alone.parent)})" if modification.alone else ""
    name = escape(modification.name)
    return f"{f'**{name}**' if modification.name == data.shipped else name}{origin}"


def _steps(modification: Modification) -> str:
    lines = []
    for change in modification.changes:
        pairs = ", ".join(f"{name} {value}" for name, value in change.parameters.items())
        lines.append(f"**{escape(change.step)}** {escape(pairs)}".rstrip())
    lines += [f"*tried because {escape(modification.because)}*"] if modification.because else []
    return "<br>".join(lines)


# -------------------------------------------------------------------------- 2 modification protocol


def _protocol(data: Dossier, view: View, answers: MakerAnswers) -> list[str]:
    protocol = data.protocol
    openings = [
        f"{moment(opening.when)}: {', '.join(opening.candidates)} ({opening.reason})"
        for opening in protocol.openings
    ]
    guards = ", ".join(protocol.guarding_sections) or "none declared"
    return [
        "## 2. Modification protocol",
        f"### Acceptance criteria{rules_when(view)}",
        table(
            ["Figure", "May fall by at most", "Decides or guards", "Interval"],
            [_rule(rule, view.noun) for rule in protocol.rules],
        ),
        *_floors(view),
        "Changes are candidate minus reference on the same images. The main rule passes when the "
        "whole interval lies inside the limit, fails when the whole interval lies outside, and is "
        "inconclusive in between; a guard stops a candidate only where the whole interval lies "
        "outside. Every candidate is judged against the root reference, not against the step "
        "before it.",
        f"Sections of the evidence that stop a candidate where they show a loss: {escape(guards)}.",
        "### Data management",
        bullet_list(map(escape, protocol.data_management)),
        "Openings of the sealed test images:",
        bullet_list(map(escape, openings or ["never opened"])),
        f"Digest of the split file: `{protocol.split_sha256}`",
        "### Re-training",
        bullet_list(map(escape, protocol.retraining)) or f"*{YOURS}*",
        "### Performance evaluation",
        bullet_list(map(escape, protocol.performance_evaluation)) or NOT_MEASURED,
        "### Update procedures",
        left(answers, UPDATES),
        "### From modification to criterion",
        escape(gate_sentence(view)),
        table(
            ["", "Modification", "Re-training", "Judged on", "Against the criteria"],
            [_trace(modification) for modification in data.modifications],
        ),
    ]


def _floors(view: View) -> list[str]:
    """Least figures, where the study sets any."""
    floors = view.result.recipe.get("floors") or {}
    named = joined([f"{metric_name(metric)} {figure(metric, x)}" for metric, x in floors.items()])
    text = f"Least figures, above which the whole interval must lie: {named}."
    return [escape(text)] if floors else []


def _rule(rule: Rule, noun: str) -> list[str]:
    rise = "" if metric_facts(rule.metric).higher_is_better else " (rise)"
    limit = limit_words(rule.metric, rule.margin) + rise
    kind = "main rule" if rule.primary else "guard"
    coverage = f"{100 * rule.confidence:g}%, two-sided"
    return [escape(capital(metric_name(rule.metric, noun))), limit, kind, coverage]


def _trace(modification: Modification) -> list[str]:
    taught = [change.step for change in modification.changes if "epochs" in change.parameters]
    judged = f"{split_name(modification.split)} images" if modification.split else NOT_MEASURED
    return [
        str(modification.number),
        escape(modification.name),
        escape(", ".join(taught) or "none"),
        judged,
        status_word(modification),
    ]


# ------------------------------------------------------------------------------ 4 trade-off record


def _record(data: Dossier, view: View, answers: MakerAnswers) -> list[str]:
    rows = [
        [str(modification.number), escape(modification.name),
         change_interval(modification.differences.get(view.metric), view.margin),
         size_phrase(modification.file_ratio) or NOT_MEASURED,
         speed_phrase(modification.time_ratio) or NOT_MEASURED,
         status_word(modification), _became(modification), escape(" ".join(modification.reasons))]
        for modification in data.modifications
    ]  # fmt: skip
    rows.append(["", f"{escape(data.reference)}, unchanged", "", "", "", "", "considered", ""])
    proposed = escape(data.shipped) if data.shipped else "to ship none of them"
    change = f"Change in {escape(metric_name(view.metric))}, points"
    return [
        "## 4. Trade-off record, to be signed",
        f"Options considered: all {counted(len(rows), 'option')}, the rejected ones included. The "
        f"study's own rules chose: {proposed}.",
        table(["", "Option", change, "Size", "Speed", "Verdict", "What became of it", "Why"], rows),
        left(answers, CHOICE),
        table(
            ["Role", "Name", "Accepts or declines", "Date", "Signature"],
            [[escape(signed.role), *map(escape, cells(signed))] for signed in answers.signatures],
        ),
    ]


def _became(modification: Modification) -> str:
    return (
        "a control, to compare with"
        if modification.control
        else ROLES.get(modification.role, modification.role)
    )


# ---------------------------------------------------------------------------- 5 versions and hashes


def _inventory(data: Dossier) -> list[str]:
    return [
        "## 5. Versions and hashes",
        "What these figures were measured with. A bill of materials of the device needs more: "
        f"operating system, drivers, everything that ships (*{YOURS}*).",
        table(
            ["Kind", "Name", "Version", "sha256"],
            [
                [part.kind, escape(part.name), escape(part.version or ""), _digest(part.sha256)]
                for part in data.inventory
            ],
        ),
    ]


def _digest(sha256: str | None) -> str:
    return f"`{sha256}`" if sha256 else ""


# -------------------------------------------------------------------------------- 6, 7 checklists


def _checklist(title: str, answers: Sequence[Answer]) -> list[str]:
    return [
        f"## {title}",
        "Items in our own short words; the numbers are the checklist's. An item is answered only "
        "as far as the records go.",
        table(
            ["Item", "Part", "Asks for", "What the records say", "For you to complete"],
            [_row(answer) for answer in answers],
        ),
    ]


def _row(answer: Answer) -> list[str]:
    if answer.maker:
        told = escape(answer.maker)
        return [answer.number, answer.section, answer.asks, escape(answer.said or ""), told]
    left = {"records": "", "part": escape(answer.rest or ""), "you": f"*{YOURS}*"}[answer.state]
    return [answer.number, answer.section, answer.asks, escape(answer.said or ""), left]
