"""The rules of a study, written down with their digest before its test split is first opened.

``RUN/rules.json`` holds everything a verdict hangs on. Until the test split is opened it may be
written again; from then on each opening in ``test_openings.jsonl`` names the digest in force, and a
later run whose rules differ, or that finds the file or the log not as they were written, gives no
verdict better than inconclusive. The digests guard against second thoughts and mix-ups; they are
not a signature.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from clinipress import distributed
from clinipress.data.splits import log_opening
from clinipress.data.study import OPENINGS
from clinipress.errors import InputError, RecipeError
from clinipress.evidence.gate import Primary, rules_for
from clinipress.evidence.judged import Declared
from clinipress.recipe.study import GUARDS, Study
from clinipress.records.metrics import METRICS, metric_facts
from clinipress.records.result import RuleChange, SealedRules, TestOpening
from clinipress.records.store import digest_of, read_json, write_atomically

__all__ = [
    "FILE",
    "KEPT_OPENING",
    "Seal",
    "check_floors",
    "check_names",
    "openings",
    "rules_of",
    "seal",
]

FILE = "rules.json"
KEPT_OPENING = "opening.json"  # of a piece of test answers: the opening that it was made by
FLOORS_ONLY, MARGINS_ONLY = ("agreement",), ("sensitivity[*]",)
FINDINGS_ONLY = ("sensitivity[*]", "specificity[*]", "auroc[*]")
GRADES = "order of the grades"


@dataclass(frozen=True)
class Seal:
    """What holds in a run, and what held when its test split was first opened.

    Attributes:
        rules: In force now.
        sealed: In force when the test split was first opened, or, where it is still sealed, those
            written down; None where that cannot be known.
        changes: What is not as it was then.
    """

    rules: SealedRules
    sealed: SealedRules | None
    changes: tuple[RuleChange, ...] = ()

    def declared(self, study: Study) -> Declared:
        """What the evidence is judged by."""
        margins = {rule.metric: rule.margin for rule in self.rules.rules}
        ordered, several = bool(study.data.order), primary_of(study)
        rules = rules_for(study.risk, ordered=ordered, several=several)
        usual = {rule.metric: rule.margin for rule in rules}
        return Declared(
            study.risk,
            study.evidence,
            study.bootstrap,
            study.seed,
            margins={name: margin for name, margin in margins.items() if usual.get(name) != margin},
            floors=self.rules.floors,
            rule_changes=self.changes,
        )

    def log_judging(self, folder: Path, candidates: Sequence[str]) -> None:
        """Put on record that answers of before are judged by rules that no opening names yet."""
        if self.rules.digest in {opening.rules for opening in openings(folder)}:
            return
        named = ", ".join(change.what for change in self.changes) or "rules"
        opening = TestOpening(
            when=self.changes[0].when if self.changes else _now(),
            candidates=tuple(candidates),
            reason=f"answers of before, judged by other rules: {named}",
            kind="judging",
            rules=self.rules.digest,
        )
        log_opening(folder / OPENINGS, opening)


def openings(folder: Path) -> tuple[TestOpening, ...]:
    """Every opening of the test split that a run folder's log names."""
    log = folder / OPENINGS
    if not log.is_file():
        return ()
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
        return tuple(TestOpening.model_validate_json(line) for line in lines if line.strip())
    except ValueError as problem:  # pydantic's, and of the encoding
        raise InputError(
            f"the log of test openings as it was written at '{log}'",
            str(problem).splitlines()[0],
            "bring it back, or run the study in another folder",
        ) from None


def rules_of(study: Study, classes: Sequence[str], test_images: str = "") -> SealedRules:
    """The rules of a study, checked against its classes; `test_images` is `StudyData.test_images`.

    Raises:
        RecipeError: A margin, a floor, a prevalence or the normal class is of something unknown.
    """
    check_names(study, classes)
    evidence, data = study.evidence, study.data
    guards = GUARDS[study.risk] if evidence.guards is None else evidence.guards
    division = "/".join(f"{share:g}" for share in data.split.fractions)
    facts = SealedRules(
        digest="",
        when=_now(),
        risk=study.risk,
        rules=rules_for(
            study.risk,
            _by_class(study.margins, data.positive, classes),
            ordered=bool(data.order),
            several=primary_of(study),
        ),
        floors=_every_class(study.floors, classes),
        positive=data.positive,
        normal=data.normal,
        guards=guards,
        prevalence=evidence.prevalence,
        aims=evidence.aims,
        smallest_group=evidence.smallest_group,
        bootstrap=study.bootstrap,
        seed=study.seed,
        others={
            "class map": _shown(data.class_map),
            **({GRADES: _shown(data.order)} if data.order else {}),
            **(
                {"empty cells": data.blank, "cells with -1": data.uncertain}
                if data.task == "multilabel"
                else {}
            ),
            **({"hierarchy of findings": _shown(data.parents)} if data.parents else {}),
            **({"rule of readers": data.readers} if data.readers else {}),
            "division of the images": f"{data.split.by}, {division}, seed {data.split.seed}",
            "images drawn": _shown(data.sample or "all"),
            "images under stress": _shown(evidence.stress),
            "saliency maps": _shown(evidence.saliency),
            **({"test images": test_images} if test_images else {}),
        },
    )
    return facts.model_copy(update={"digest": _digest(facts.model_dump(mode="json"))})


def seal(rules: SealedRules, folder: Path) -> Seal:
    """Write the rules down, or set them beside those that were in force at the first opening.

    Args:
        rules: In force now.
        folder: The run folder.
    """
    log, written = openings(folder), _written(folder / FILE)
    lost = _lost_opening(folder, log)
    distributed.barrier()  # nobody reads what the first process writes below
    if not log and not lost:
        kept = written if written is not None and written.digest == rules.digest else rules
        _write(kept, folder)
        return Seal(kept, kept)
    when = next((opening.when for opening in log if opening.rules == rules.digest), _now())

    def broken(before: str, after: str) -> Seal:
        return Seal(rules, None, (RuleChange(what="seal", before=before, after=after, when=when),))

    if lost:
        return broken("the log of openings as it was written", "one that lacks an opening")
    first = log[0]
    if first.rules is None:
        return broken(
            "a record of the rules in force when the test images were first read",
            "none, as an earlier version writes none",
        )
    if written is None or written.digest != first.rules:
        if rules.digest != first.rules:
            there = "an edited one" if (folder / FILE).exists() else "none"
            return broken(f"a {FILE} that fits the first opening", there)
        # the digest of the first opening proves that these are the rules it was made by
        written = rules.model_copy(update={"when": first.when})
        _write(written, folder)
    return Seal(rules, written, tuple(_differences(written, rules, when)))


def _write(rules: SealedRules, folder: Path) -> None:
    if distributed.is_main():
        write_atomically(folder / FILE, rules.model_dump_json(indent=1))


def _written(path: Path) -> SealedRules | None:
    """The sealed rules as they were written; None where they are not there or were edited."""
    try:
        tree = read_json(path)
        rules = SealedRules.model_validate(tree)
    except (InputError, ValidationError):
        return None
    return rules if _digest(tree) == rules.digest else None


def _digest(tree: Mapping[str, Any]) -> str:
    return digest_of({name: tree[name] for name in tree if name not in ("digest", "when")})


def _lost_opening(folder: Path, log: Sequence[TestOpening]) -> bool:
    """Whether test answers lie in the run folder whose opening the log does not name."""
    for piece in (*folder.glob("objects/test-*"), *folder.glob("work/test-*")):
        kept = piece / KEPT_OPENING
        if kept.is_file():
            if TestOpening.model_validate(read_json(kept)) not in log:
                return True
        elif not log and piece.parent.name == "objects":  # made by an earlier version
            return True
    return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def primary_of(study: Study) -> Primary | None:
    """What decides where an image may show several findings; None: it shows one class."""
    if study.data.task == "multiclass":
        return None
    return "sensitivity[*]" if study.evidence.primary == "worst_sensitivity" else "auroc_macro"


def _differences(sealed: SealedRules, now: SealedRules, when: str) -> Iterator[RuleChange]:
    """Field by field, for people; what follows from the risk level alone is not said twice."""
    pairs = {
        name: (getattr(sealed, name), getattr(now, name))
        for name in SealedRules.model_fields
        if name not in ("digest", "when", "others")
    }
    if sealed.risk != now.risk:
        follows = {
            "rules": tuple(
                rules_for(each.risk, ordered=GRADES in each.others, several=_decides(each))
                for each in (sealed, now)
            ),
            "guards": tuple(GUARDS[risk] for risk in (sealed.risk, now.risk)),
        }
        pairs = {name: pair for name, pair in pairs.items() if follows.get(name) != pair}
        pairs["risk"] = _level(sealed), _level(now)
    for name in sorted({*sealed.others, *now.others}):
        pairs[name] = sealed.others.get(name, "not recorded"), now.others.get(name, "not recorded")
    for name, (before, after) in pairs.items():
        if before != after:
            yield RuleChange(what=name, before=_shown(before), after=_shown(after), when=when)


def _decides(rules: SealedRules) -> Primary | None:
    """`primary_of` the study that has such rules."""
    primary = next(rule.metric for rule in rules.rules if rule.primary)
    return next((each for each in get_args(Primary) if each == primary), None)


def _level(rules: SealedRules) -> str:
    primary = next(rule for rule in rules.rules if rule.primary)
    return f"{rules.risk} ({100 * primary.margin:g} points)"


def _shown(value: Any) -> str:
    """A value of the rules for people."""
    if isinstance(value, Mapping):
        value = [f"{name} {number}" for name, number in value.items()]
    if value is None or value == [] or value == ():
        return "none"
    if isinstance(value, list | tuple):
        parts = (_rule(v) if hasattr(v, "margin") else str(v) for v in value)
        return ", ".join(parts)
    return str(value)


def _rule(rule: Any) -> str:
    scale = metric_facts(rule.metric).scale
    return f"{rule.metric} {scale * rule.margin:g}{' (decides)' if rule.primary else ''}"


# ------------------------------------------------------------------------------ names of a study


def check_names(study: Study, classes: Sequence[str] | None = None) -> None:
    """Refuse margins, floors and prevalences of what there is not, before anything is trained.

    Args:
        study: The recipe.
        classes: Of the images; None where they are not known yet: then classes go unchecked.

    Raises:
        RecipeError: A name is unknown.
    """
    graded = METRICS["grades"] if study.data.order else ()
    several = study.data.task == "multilabel"
    for metric in study.margins:
        more = FINDINGS_ONLY if several else (*MARGINS_ONLY, *graded)
        _check_metric("margins", metric, more, classes, several=several)
    check_floors(study.floors, classes, graded, several=several)
    if classes is None:
        return
    for name in study.evidence.prevalence:
        _check_class("evidence.prevalence", name, classes)
    shares = study.evidence.prevalence
    if not several and set(shares) == set(classes) and abs(sum(shares.values()) - 1) > 1e-6:
        raise RecipeError(
            "shares of all classes in 'evidence.prevalence' that sum to 1",
            f"{sum(shares.values()):g}",
        )
    for key, chosen in (("data.positive", study.data.positive), ("data.normal", study.data.normal)):
        if chosen is not None:
            _check_class(key, chosen, classes)
    if study.data.normal is not None and study.data.normal == study.data.positive:
        raise RecipeError("'data.normal' to be no finding", f"'{study.data.normal}', the positive")


def check_floors(
    floors: Mapping[str, float],
    classes: Sequence[str] | None = None,
    graded: Sequence[str] = METRICS["grades"],
    *,
    several: bool = False,
) -> None:
    """Refuse floors of figures that there are not, or of which less is better.

    Raises:
        RecipeError: Such a name.
    """
    for metric in floors:
        more = FINDINGS_ONLY if several else (*FLOORS_ONLY, *MARGINS_ONLY, *graded)
        _check_metric("floors", metric, more, classes, several=several)
        if not metric_facts(metric).higher_is_better:
            raise RecipeError(
                f"figures in 'floors' of which more is better, not '{metric}'",
                "one of which less is",
                "limit its rise with 'margins'",
            )


def _check_metric(
    key: str,
    metric: str,
    more: Sequence[str],
    classes: Sequence[str] | None,
    *,
    several: bool = False,
) -> None:
    family, bracket, rest = metric.partition("[")
    two = classes is None or len(classes) == 2
    single = (*METRICS["all"], *more, *(METRICS["two classes"] if two else ()))
    by_class = [name for name in METRICS["class"] if classes is None or not two or name != "auroc"]
    if several:
        single, by_class = (*METRICS["findings"], *more), list(METRICS["finding"])
    if metric in single:
        return
    if bracket and family in by_class and rest.endswith("]"):
        if classes is not None:
            _check_class(f"{key}: {family}[...]", rest[:-1], classes)
        return
    known = [*single, *(f"{name}[{c}]" for name in by_class for c in classes or ("CLASS",))]
    near = difflib.get_close_matches(metric, known, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    raise RecipeError(f"names of figures in '{key}'", f"'{metric}'", hint)


def _check_class(key: str, name: str, classes: Sequence[str]) -> None:
    if name not in classes:
        near = difflib.get_close_matches(name, classes, n=1, cutoff=0.6)
        hint = f"did you mean '{near[0]}'?" if near else None
        raise RecipeError(f"'{key}' to name one of {', '.join(classes)}", f"'{name}'", hint)


def _by_class(
    margins: Mapping[str, float], positive: str | None, classes: Sequence[str]
) -> dict[str, float]:
    """Margins by the names that rules go by: of two classes, "sensitivity" is the finding's."""
    if positive is None or len(classes) != 2:
        return dict(margins)
    other = classes[1 - list(classes).index(positive)]
    names = {"sensitivity": f"sensitivity[{positive}]", "specificity": f"sensitivity[{other}]"}
    return {names.get(metric, metric): margin for metric, margin in margins.items()}


def _every_class(floors: Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    """Floors with "sensitivity[*]" as one for each class that has none of its own."""
    named = {metric: least for metric, least in floors.items() if not metric.endswith("[*]")}
    every = {
        f"{metric.removesuffix('[*]')}[{name}]": least
        for metric, least in floors.items()
        if metric.endswith("[*]")
        for name in classes
    }
    return every | named
