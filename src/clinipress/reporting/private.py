"""A result without what names a patient: for what is sent, and for all pages of a strict study.

Left out are pictures, names of files, paths, and columns that identify; counts and figures stay.
Names of images become "image 1", "image 2", the same one for the same image on all pages.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from clinipress.records.judgement import Judgements
from clinipress.records.result import Audit, ExternalTest, LeftOut, Result, Unreadable

__all__ = ["LEFT_OUT", "identifies", "kept", "sent", "without_names", "without_paths"]

LEFT_OUT = "left out"
# Keys of a study, or of a step's parameters, whose text says where something lies.
PATHS = frozenset(("path", "file", "checkpoint", "masks", "sample", "data", "folder"))
QUOTED_FILE = re.compile(r"'[^']*\.(?!\d)[A-Za-z0-9]{2,5}(?:\.gz)?'")
LOCATION = re.compile(
    r"(?:[/~]|\.{1,2}[/\\]|[A-Za-z]:[\\/]).*|.*\.(?:safetensors|pt|pth|ckpt|onnx|csv|tsv|npz|ya?ml)"
)
# What tells groups apart and names nobody, in English and es, pt, fr, de, it, nl, without accents.
# A list of what identifies is never whole: what stands in none of these is left out.
_CENTERS = """
    center centers centre centro site sites sitio hospital hospitals ospedale hopital ziekenhuis
    krankenhaus klinik clinic clinica clinique kliniek zentrum centrum institution institucion
    instituicao institut institute standort sede country pais pays land paese manufacturer
    fabricante fabricant hersteller produttore fabrikant vendor vendors proveedor fornecedor
    make brand marca marque marke merk scanner scanners escaner scan model modelo modele modell
    modello device devices dispositivo aparato aparelho appareil gerat apparecchio apparaat
    equipo equipamento camera ethnicity ethnic etnia ethnie etnicidad etnicidade ethnizitat
    etniciteit race raza raca rasse razza ras
"""
_KNOWN = """
    age ages edad idade alter eta leeftijd years sex sexe sexo sesso gender genero genre
    geschlecht geslacht anatomy anatom anatomic anatomical anatomia body bodypart organ organo
    organe lobe quadrant location localization localizacion localizacao localisation
    lokalisation localizzazione locatie side lado cote seite lato zijde laterality lateralidad
    lateralidade lateralite lateralita view vista vue ansicht projection proyeccion projecao
    proiezione projektion projectie orientation plane modality modalidad modalidade modalite
    modalitat modalita modaliteit protocol protocolo protocole protokoll protocollo contrast
    contraste kontrast contrasto sequence secuencia sequencia sequenz sequenza field strength
    tesla kvp thickness magnification stain resolution quality calidad qualidade qualite
    qualitat kwaliteit skin piel pele peau haut pelle huid fitzpatrick phototype fototipo
    density densidad densidade densite dichte densita dichtheid birads acr stage estadio stade
    stadium stadio grade grado grau gradation grad severity gravedad gravidade gravite
    schweregrad gravita year ano annee jahr anno jaar weight peso poids gewicht height bmi
    smoker smoking fumador fumeur raucher diabetes diameter size histology malignant benign
"""
# says nothing alone, and nothing new beside such a word
_BESIDE = """
    patient patients paciente pacientes paziente patiente image imagen imagem lesion tumor
    tumour part position type tipo typ general group grupo gruppe gruppo groep band range
    category class score of the at de del da do du des der di von van in study exam x ray mri mr
    ct us
"""
CENTERS, BESIDE = frozenset(_CENTERS.split()), frozenset(_BESIDE.split())
KNOWN = CENTERS | frozenset(_KNOWN.split())
DATE = r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}|\d{1,2}\.?[ -](?:de )?[^\W\d_]{3,}\.?,?[ -](?:de )?\d{2,4}"
LONG = r"(?<![\d.,])\d{5,}|\d{1,3}(?:[. -]\d{3}){2,}|\d{2,4}(?:[ -]\d{2,4}){2,}"
PERSONAL = re.compile(rf"@|\d{{1,2}}:\d\d|{DATE}|{LONG}")
NAME = re.compile(r"[^\W\d_][\w.'\u2019-]+(?:[ ,^]+[^\W\d_][\w.'\u2019-]+)+")
MOST_VALUES = 20  # a column of more is no group of people, as for the subgroups


def kept(result: Result) -> Result:
    """What the run folder's own pages and ``result.json`` are made from."""
    return without_names(result) if _privacy(result) == "strict" else result


def sent(result: Result) -> Result:
    """What is made to be sent is made from: bundle, model card, dossier."""
    return result if _privacy(result) == "full" else without_names(result)


def _privacy(result: Result) -> str:
    return str(result.recipe.get("privacy", "standard"))


def identifies(column: str, values: Iterable[str] = ()) -> bool:
    """Whether a column may tell who somebody is: all are taken to that are not known to tell none.

    Known are whole words of its name; its values must be few, and look like no date, address,
    long number or name of a person.
    """
    plain = unicodedata.normalize("NFKD", column.replace("\u00df", "ss"))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", plain)}
    if not plain.isascii() or not words & KNOWN or words - KNOWN - BESIDE:
        return True
    different, named = set(values), bool(words & CENTERS)
    return len(different) > MOST_VALUES or any(_personal(value, named) for value in different)


def _personal(value: str, named: bool) -> bool:
    """Whether a value looks like a person's; `named`: things with names of their own."""
    if PERSONAL.search(value):
        return True
    return not named and any(
        sum(part[0].isupper() for part in re.split(r"[ ,^]+", found)) > 1
        for found in NAME.findall(value)
    )


def without_paths(tree: Any, key: str = "") -> Any:
    """Plain data in which whatever says where something lies is left out."""
    if isinstance(tree, Mapping):
        return {name: without_paths(value, name) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(without_paths(value, key) for value in tree)
    if isinstance(tree, str) and (key in PATHS or LOCATION.fullmatch(tree)):
        return LEFT_OUT
    return tree


class _Names:
    """One plain name for each image or file, and the texts in which the true ones stood."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __call__(self, name: str, kind: str = "image") -> str:
        if name == "...":  # stands for those that are not listed
            return name
        return self._names.setdefault(name, f"{kind} {len(self._names) + 1}")

    def cleaned(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Texts in which each name known by now is replaced."""
        known = sorted(self._names.items(), key=lambda pair: -len(pair[0]))
        return tuple(QUOTED_FILE.sub(f"'{LEFT_OUT}'", _replaced(text, known)) for text in texts)


def _replaced(text: str, known: Iterable[tuple[str, str]]) -> str:
    for name, instead in known:
        if len(name) > 2 and name in text:
            text = text.replace(name, instead)
    return text


def without_names(result: Result) -> Result:
    """The record with the names left out."""
    result = _without_folders(result)
    names = _Names()
    columns = _identifying(result)
    candidates = []
    for record in result.candidates:
        judgements = {
            split: _judgements(section, names, columns)
            for split, section in record.judgements.items()
        }
        history = tuple(
            step.model_copy(
                update={"params": without_paths(step.params), "facts": without_paths(step.facts)}
            )
            for step in record.history
        )
        update = {"judgements": judgements, "history": history}
        candidates.append(record.model_copy(update=update))
    audit = _audit(result.audit, names, columns).model_copy(update={"path": result.study})
    cleaned = result.model_copy(
        update={
            "candidates": tuple(candidates),
            "audit": audit,
            "recipe": without_paths(result.recipe),
            "external_tests": tuple(
                _external(test, names, columns) for test in result.external_tests
            ),
        }
    )
    return _without_values(cleaned, columns)


def _without_folders(result: Result) -> Result:
    """External sets that bear a folder's name are numbered; those that a person named keep it."""
    unnamed = [test.name for test in result.external_tests if not test.named]
    unnamed += [PurePath(file).stem for file in result.set_aside if file.startswith("external/")]
    numbers = {name: f"external set {n}" for n, name in enumerate(dict.fromkeys(unnamed), 1)}
    if not numbers:
        return result
    splits = {f"external: {name}": f"external: {instead}" for name, instead in numbers.items()}

    def by_split(figures: Mapping[str, Any]) -> dict[str, Any]:
        return {splits.get(split, split): figure for split, figure in figures.items()}

    candidates = tuple(
        record.model_copy(
            update={key: by_split(getattr(record, key)) for key in BY_SPLIT}
            | {"per_image": {s: p for s, p in record.per_image.items() if s not in splits}}
        )
        for record in result.candidates
    )
    tests = tuple(
        test.model_copy(
            update={
                "name": numbers[test.name],
                "rows": {n: row.model_copy(update={"per_image": LEFT_OUT})
                         for n, row in test.rows.items()},
            }
        )
        if test.name in numbers else test
        for test in result.external_tests
    )  # fmt: skip
    # where a set's name stands in a sentence; alone, "test" or "B" may be any word
    beside = re.compile(rf"('|external/|external: |external \(|--name )({_any(numbers)})(?!\w)")

    def renamed(text: str) -> str:
        return beside.sub(lambda found: found[1] + numbers[found[2]], text)

    update = {
        "candidates": candidates,
        "external_tests": tests,
        "set_aside": {renamed(file): renamed(text) for file, text in result.set_aside.items()},
        "limits": tuple(map(renamed, result.limits)),
    }
    return result.model_copy(update=update)


BY_SPLIT = ("evidence", "confusion", "judgements", "changes")


def _identifying(result: Result) -> dict[str, tuple[str, ...]]:
    """Columns that identify and their values, of the study's images and of those from elsewhere."""
    groups: dict[str, list[str]] = {name: list(x) for name, x in result.audit.groups.items()}
    single: dict[str, list[str]] = {}  # of one image each: ages are many, and no bands yet
    judged = [s for record in result.candidates for s in record.judgements.values()]
    judged += [row.judgements for test in result.external_tests for row in test.rows.values()]
    for sections in judged:
        if sections.subgroups:
            for column in (*sections.subgroups.left_out, *sections.subgroups.unknown):
                groups.setdefault(column, [])
            for group in sections.subgroups.groups:
                groups.setdefault(group.column, []).append(group.value)
        for flip in sections.disagreement.flips if sections.disagreement else ():
            for column, value in flip.groups.items():
                groups.setdefault(column, [])
                single.setdefault(column, []).append(value)
    return {
        column: tuple(dict.fromkeys((*values, *single.get(column, ()))))
        for column, values in groups.items()
        if identifies(column, values)
        or any(identifies(column, (v,)) for v in single.get(column, ()))
    }


def _audit(audit: Audit, names: _Names, columns: Mapping[str, Any]) -> Audit:
    def pairs(entries: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(e.model_copy(update={"a": names(e.a), "b": names(e.b)}) for e in entries)

    update = {
        "groups": {name: values for name, values in audit.groups.items() if name not in columns},
        "withheld_columns": max(len(columns), audit.withheld_columns),
        "duplicate_pairs": pairs(audit.duplicate_pairs),
        "conflicting_labels": pairs(audit.conflicting_labels),
        "leaked_images": {
            where: tuple(map(names, keys)) for where, keys in audit.leaked_images.items()
        },
        "unreadable": _files(audit.unreadable, names),
        "refused": _files(audit.refused, names),
        "dark": _files(audit.dark, names),
        "left_out": tuple(_left_out(entry, names) for entry in audit.left_out),
    }
    return audit.model_copy(update=update | {"warnings": names.cleaned(audit.warnings)})


def _files(entries: Iterable[Unreadable], names: _Names) -> tuple[Unreadable, ...]:
    return tuple(
        Unreadable(path=names(entry.path), reason=_unnamed(entry, names(entry.path)))
        for entry in entries
    )


def _left_out(entry: LeftOut, names: _Names) -> LeftOut:
    table, mark, column = (
        entry.path.partition(": ") if entry.kind == "column" else (entry.path, "", "")
    )
    path = f"{names(table, 'table' if mark else entry.kind)}{mark}{column}"
    return entry.model_copy(update={"path": path, "reason": _unnamed(entry, path)})


def _unnamed(entry: Unreadable | LeftOut, instead: str) -> str:
    """Its reason, which may hold its own path or name."""
    last = entry.path.replace("\\", "/").rpartition("/")[2]
    return _replaced(entry.reason, ((entry.path, instead), (last, instead)))


def _external(test: ExternalTest, names: _Names, columns: Mapping[str, Any]) -> ExternalTest:
    update: dict[str, Any] = {
        "unreadable": _files(test.unreadable, names), "refused": _files(test.refused, names),
        "rows": {
            name: row.model_copy(
                update={"judgements": _judgements(row.judgements, names, columns)}
            )
            for name, row in test.rows.items()
        },
    }  # fmt: skip
    if test.overlap is not None:
        examples = tuple((names(a), names(b)) for a, b in test.overlap.examples)
        update["overlap"] = test.overlap.model_copy(update={"examples": examples})
    return test.model_copy(update=update | {"warnings": names.cleaned(test.warnings)})


def _judgements(sections: Judgements, names: _Names, columns: Mapping[str, Any]) -> Judgements:
    update: dict[str, Any] = {}
    if sections.operating is not None:
        rows = tuple(
            row.model_copy(update={"newly_missed": tuple(map(names, row.newly_missed))})
            for row in sections.operating.rows
        )
        update["operating"] = sections.operating.model_copy(update={"rows": rows})
    if sections.subgroups is not None:
        groups = sections.subgroups
        update["subgroups"] = groups.model_copy(
            update={
                "columns": tuple(name for name in groups.columns if name not in columns),
                "unknown": {name: n for name, n in groups.unknown.items() if name not in columns},
                "left_out": {c: why for c, why in groups.left_out.items() if c not in columns},
                "groups": tuple(g for g in groups.groups if g.column not in columns),
                "gaps": tuple(gap for gap in groups.gaps if gap.column not in columns),
            }
        )
    if sections.disagreement is not None:
        flips = tuple(
            flip.model_copy(
                update={
                    "key": names(flip.key),
                    "picture": None,
                    "groups": {c: v for c, v in flip.groups.items() if c not in columns},
                }
            )
            for flip in sections.disagreement.flips
        )
        by_group = tuple(
            count
            for count in sections.disagreement.by_group
            if count.name.partition(": ")[0] not in columns
        )
        update["disagreement"] = sections.disagreement.model_copy(
            update={"flips": flips, "by_group": by_group}
        )
    if sections.saliency is not None:
        update["saliency"] = sections.saliency.model_copy(update={"panels": ()})
    return sections.model_copy(update=update)


# Where sentences stand, and the facts that they are made of; and what of these is no text.
SPOKEN, FIXED = (
    frozenset(("verdict", "warnings", "limits")),
    frozenset(("kind", "status", "rule", "section", "metric")),
)
# Words of ours that a value may be, too: they are replaced beside their column alone.
_OURS = """
    other yes no true false none unknown all test train validation images image accuracy worst
    class group groups reference
"""
OURS = frozenset((*_OURS.split(), "not known"))


def _without_values(result: Result, columns: Mapping[str, Iterable[str]]) -> Result:
    """The same without the values of identifying columns in its sentences and names of figures."""
    pairs = [(column, value) for column, known in columns.items() for value in known if value]
    if not pairs:
        return result
    shown = (
        OURS | set(result.classes) | {v for table in result.audit.groups.values() for v in table}
    )
    alone = {
        value for _, value in pairs
        if len(value) > 2 and value not in shown and not re.fullmatch(r"[\d.,]{1,4}", value)
    }  # fmt: skip
    before, after = (_any(texts) for texts in zip(*pairs, strict=True))
    beside = re.compile(rf"(?<!\w)({before}|worst)(: )(?:{after})(?!\w)")
    bare = re.compile(rf"(?<!\w)(?:{_any(alone)})(?!\w)") if alone else None

    def walk(tree: Any, spoken: bool) -> Any:
        if isinstance(tree, dict):
            return {
                walk(name, spoken): walk(value, (spoken or name in SPOKEN) and name not in FIXED)
                for name, value in tree.items()
            }
        if isinstance(tree, (list, tuple)):
            return type(tree)(walk(entry, spoken) for entry in tree)
        if not isinstance(tree, str):
            return tree
        text = beside.sub(rf"\g<1>\g<2>{LEFT_OUT}", tree)
        return bare.sub(LEFT_OUT, text) if spoken and bare else text

    return Result.model_validate(walk(result.model_dump(), spoken=False))


def _any(texts: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(set(texts), key=len, reverse=True)))
