"""What is sent names no patient: no picture, file name, path or identifying column."""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clinipress.cli.terminal import show_external, show_result
from clinipress.data.drawn.phantom import draw_phantoms
from clinipress.data.drawn.samples import drawn_samples
from clinipress.errors import ImageError, InputError
from clinipress.kinds.image.refuse import contrast_refusal, is_colourful
from clinipress.records.candidate import InputSpec
from clinipress.records.judgement import Subgroup
from clinipress.records.result import (
    ExternalRow,
    ExternalTest,
    LeftOut,
    Overlap,
    Result,
    Unreadable,
)
from clinipress.reporting.documents import write_pages
from clinipress.reporting.private import LEFT_OUT, identifies, kept, sent, without_paths
from clinipress.study.flow import run_study
from clinipress.study.summary import check_sample
from kit.judgements import pictures, with_judgements
from kit.studies import study as small_study
from kit.verdicts import verdict_of

Make = Callable[..., Result]
PEOPLE = ("Anna Muster", "Bo Beispiel")
SECRETS = (
    "/home/anna/hospital/covid", "anna", "0012.jpg", "0931.jpg", "broken.jpg", "0000.png",
    "0003.png", "blank_Muster.png", "notes_of_Muster.txt", "AC-4711", *PEOPLE, "trained_at_home.pt",
)  # fmt: skip


@pytest.fixture
def study(make_study: Make) -> Result:
    """A result in which names stand wherever a record can hold one."""
    study = with_judgements(make_study(classes=("a", "b", "c")), external="external: B")
    audit = study.audit.model_copy(
        update={
            "path": "/home/anna/hospital/covid",
            "groups": {"patient_name": dict.fromkeys(PEOPLE[1:], 3), "Accession": {"AC-4711": 6},
                       "sex": {"female": 3, "male": 3}},
            "left_out": (LeftOut(path="x/notes_of_Muster.txt", kind="file", reason="no picture"),),
            "unreadable": (Unreadable(path="a/broken.jpg", reason="cannot read a/broken.jpg"),),
            "refused": (Unreadable(path="a/blank_Muster.png", reason="a blank one"),),
            "warnings": (*study.audit.warnings, "'Training/a/0012.jpg' (a) and 'x' differ"),
        }
    )  # fmt: skip
    records = []
    for record in study.candidates:
        judgements = {}
        for split, sections in record.judgements.items():
            if sections.subgroups is None:
                judgements[split] = sections
                continue
            group = Subgroup(
                column="patient_name", value=PEOPLE[0], cases=6, units=3, too_small=False
            )
            said = verdict_of("fail", f"Worst: the group {PEOPLE[0]} of patient_name.")
            groups = sections.subgroups.model_copy(
                update={
                    "columns": (*sections.subgroups.columns, "patient_name"),
                    "groups": (*sections.subgroups.groups, group),
                    "verdict": said,
                }
            )
            judgements[split] = sections.model_copy(update={"subgroups": groups})
        step = record.history[0].model_copy(
            update={"params": {"model": {"checkpoint": "/home/anna/trained_at_home.pt"}}}
        )
        records.append(
            record.model_copy(
                update={"judgements": judgements, "history": (step, *record.history[1:])}
            )
        )
    test = ExternalTest(
        name="B", created="2026-02-03T10:11:12+00:00", images=9, rows={},
        unreadable=(Unreadable(path="e/broken.jpg", reason="not an image"),),
        overlap=Overlap(exact=1, left_out=1, examples=(("e/0012.jpg", "Training/a/0012.jpg"),)),
    )  # fmt: skip
    recipe = {"intended_use": "CT/MR triage", "data": {"path": "/home/anna/hospital/covid"},
              "reference": {"model": {"checkpoint": "/home/anna/trained_at_home.pt"}}}  # fmt: skip
    update = {
        "audit": audit, "candidates": tuple(records), "external_tests": (test,), "recipe": recipe,
    }  # fmt: skip
    return study.model_copy(update=update)


def written(study: Result, folder: Path, privacy: str | None = None) -> dict[str, str]:
    """The pages of a run folder that holds the pictures, as text."""
    if privacy is not None:
        study = study.model_copy(update={"recipe": study.recipe | {"privacy": privacy}})
    for name, data in pictures().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return {path.name: path.read_text(encoding="utf-8") for path in write_pages(study, folder)}


def embedded(text: str) -> list[bytes]:
    """Pictures that stand in a page as text, decoded."""
    return [
        base64.b64decode(code)
        for code in re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", text)
    ]


def found(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


SENT = ("model-card.md", "dossier.md", "dossier.json")
STAYING = ("report.html", "report.md")


def test_f4_what_is_sent_is_strict_and_what_stays_is_full(study: Result, tmp_path: Path) -> None:
    pages = written(study, tmp_path)
    for name in SENT:
        assert found(pages[name]) == [], name
        assert "Privacy (standard): images of patients, file names, paths and identifying" in (
            pages[name] if name.endswith(".md") else pages["dossier.md"]
        )
    for name in STAYING:
        assert {"0012.jpg", "broken.jpg", *PEOPLE, "AC-4711"} <= set(found(pages[name])), name
    assert set(embedded(pages["report.html"])) <= set(pictures().values())
    assert embedded(pages["report.html"])
    assert "stays with the data" in pages["report.html"]


def test_f4_strict_is_strict_everywhere(study: Result, tmp_path: Path) -> None:
    pages = written(study, tmp_path, "strict")
    for name in (*SENT, *STAYING):
        assert found(pages[name]) == [], name
    assert embedded(pages["report.html"]) == []
    assert "<img" not in pages["report.html"]
    assert "Privacy (strict): images of patients" in pages["report.html"]
    strict = study.model_copy(update={"recipe": study.recipe | {"privacy": "strict"}})
    assert found(kept(strict).model_dump_json()) == []


def test_17_an_external_sets_folder_is_numbered_where_names_are_left_out(
    study: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder's name may name a patient or a clinic; a name that a person gave is theirs."""
    folder = "Ana_Ruiz_1948"
    split = f"external: {folder}"

    def moved(figures: dict[str, Any]) -> dict[str, Any]:
        return {split if key == "external: B" else key: value for key, value in figures.items()}

    keys = ("evidence", "confusion", "judgements", "changes")
    candidates = tuple(
        record.model_copy(
            update={key: moved(getattr(record, key)) for key in keys}
            | {"per_image": {**record.per_image, split: f"external/{folder}-x.npz"}}
        )
        for record in study.candidates
    )
    aside = {"external/Ana_Ruiz_1951.json": "The external test 'Ana_Ruiz_1951' is not shown: --name"
             " Ana_Ruiz_1951."}  # fmt: skip
    limits = (f"Classes of external ({folder}) are few.",)
    for named in (False, True):
        test = study.external_tests[0].model_copy(update={"name": folder, "named": named})
        full = study.model_copy(update={
            "candidates": candidates, "external_tests": (test,), "set_aside": aside,
            "limits": limits, "recipe": study.recipe | {"privacy": "strict"},
        })  # fmt: skip
        pages = written(full, tmp_path / str(named))
        written(full, tmp_path / str(named))
        show_external(full.external_tests[0], full, tmp_path)
        texts = {
            **pages, "terminal": capsys.readouterr().out, "json": kept(full).model_dump_json()
        }  # fmt: skip
        for name, text in texts.items():
            assert "Ana_Ruiz_1951" not in text, name
            assert named or folder not in text, name
        for name in ("report.html", "report.md", "terminal", "json"):
            assert (folder if named else "external set 1") in texts[name], name
        assert kept(kept(full)) == kept(full)
    standard = full.model_copy(update={"recipe": study.recipe, "external_tests": (
        study.external_tests[0].model_copy(update={"name": folder}),)})  # fmt: skip
    assert folder in written(standard, tmp_path / "standard")["report.md"]
    assert folder not in sent(standard).model_dump_json()


def test_f4_full_adds_names_and_never_pictures(study: Result, tmp_path: Path) -> None:
    pages = written(study, tmp_path, "full")
    assert PEOPLE[0] in pages["dossier.md"]
    for name in SENT:
        assert "data:image" not in pages[name]
        assert "<img" not in pages[name]


def test_figures_and_counts_are_not_touched(study: Result) -> None:
    private = sent(study)
    for mine, theirs in zip(private.candidates, study.candidates, strict=True):
        assert list(mine.evidence.values()) == list(theirs.evidence.values())  # a set is numbered
        assert list(mine.changes.values()) == list(theirs.changes.values())
    assert len(private.audit.duplicate_pairs) == len(study.audit.duplicate_pairs)
    assert len(private.audit.unreadable) == len(study.audit.unreadable)
    assert private.audit.groups == {"sex": {"female": 3, "male": 3}}
    assert private.recipe["intended_use"] == "CT/MR triage"
    assert private.recipe["data"]["path"] == LEFT_OUT
    # the same image has the same plain name everywhere
    pair = private.audit.duplicate_pairs[0]
    assert (pair.a, pair.b) != (pair.b, pair.a)
    assert private.audit.conflicting_labels[0].a == pair.a
    assert private.audit.leaked_images["Testing->Training"] == (pair.b,)


@pytest.mark.parametrize(
    "column",
    ["patient_name", "PatientName", "accession", "StudyInstanceUID", "MRN", "patient", "birth date",
     "PatientBirthDate", "file", "case_id", "zip-code", "E-Mail"],
)  # fmt: skip
def test_columns_that_identify(column: str) -> None:
    assert identifies(column)


@pytest.mark.parametrize(
    "column",
    [
        *("sex", "PatientAge", "age", "site", "scanner", "modality", "skin_type", "birads"),
        *("Género", "edad_paciente", "âge", "Gerät", "leeftijd", "età"),
        *("MRIScanner", "lado", "anatom_site_general", "ViewPosition", "año"),
    ],
)
def test_columns_of_groups(column: str) -> None:
    assert not identifies(column)
    assert not identifies(column, ("0-39", "above 0.703125 to 1.5", "female", "CT/MR", "70 to 79"))
    assert identifies(column, map(str, range(21)))


@pytest.mark.parametrize(
    "column",
    ["nombre", "fecha_nacimiento", "médico", "NHC", "apellidos", "Geburtsdatum", "naissance",
     "cognome", "nascimento", "Имя", "Имя age", "valid", "group", "médico_centro",
     "hospital_doctor", "age name", "year of birth", "2", ""],
)  # fmt: skip
def test_p1_a_column_that_is_not_known_to_name_nobody_identifies(column: str) -> None:
    assert identifies(column, ["x"])


@pytest.mark.parametrize(
    "value",
    ["1948-08-08", "8.8.1948", "08/08/48", "8 Aug 1948", "8 de agosto de 1948", "19480808",
     "ana@hospital.es", "7000123", "X1234567A", "12.345.678-A", "600 123 456", "12:30"],
)  # fmt: skip
def test_p1_values_that_look_like_a_persons_are_left_out_in_any_column(value: str) -> None:
    assert identifies("site", ["A", value])
    assert identifies("sex", ["f", value])


@pytest.mark.parametrize("value", ["Ana Ruiz", "ANA RUIZ", "Ruiz, Ana", "RUIZ^ANA", "Ángel Núñez"])
def test_p1_names_are_left_out_but_of_hospitals_and_makers(value: str) -> None:
    assert identifies("stage", [value])
    for column in ("hospital", "centro", "Gerät", "manufacturer", "ethnicity"):
        assert not identifies(column, [value])


NAMES = {"Ana Ruiz": 3, "luis peña": 3, "Al": 3}
TABLE = {
    "nombre": NAMES, "fecha_nacimiento": {"1948-08-08": 6, "1951-02-03": 3},
    "médico": {"García": 9}, "NHC": {"7000": 9}, "hospital": {"La Paz": 5, "Hospital Clínico": 4},
}  # fmt: skip
TELLING = ("Ana Ruiz", "luis peña", "1948-08-08", "1951-02-03", "García", ": 7000", ": Al")


@pytest.fixture
def spanish(make_study: Make) -> Result:
    """A study of a table in Spanish, in which its values stand wherever a record can hold one."""
    study = with_judgements(make_study(classes=("a", "b", "c")), external="external: B")

    def named(sections: Any) -> Any:
        if sections.subgroups is None:
            return sections
        groups = [
            Subgroup(column=column, value=value, cases=n, units=3, too_small=False)
            for column, values in TABLE.items() for value, n in values.items()
        ]  # fmt: skip
        gaps = tuple(
            gap.model_copy(update={"column": "nombre", "best": "Al", "worst": "luis peña"})
            for gap in sections.subgroups.gaps
        )
        said = verdict_of(
            "fail", "Worst of 9 comparisons: accuracy in nombre: Ana Ruiz fell.",
            "The gap between the groups of nombre (worst: luis peña) grew.",
            "The gap between the groups of nombre (worst: Al) grew.",
            "Too few images to judge: médico: García (3), NHC: 7000 (3), hospital: La Paz (5).",
        )  # fmt: skip
        reason = said.reasons[0].model_copy(
            update={"metric": "accuracy[nombre: Ana Ruiz]",
                    "parameters": {"worst": "luis peña", "groups": {"fecha: 1948-08-08": 3}}}
        )  # fmt: skip
        said = said.model_copy(update={"reasons": (reason, *said.reasons[1:])})
        update: dict[str, Any] = {
            "subgroups": sections.subgroups.model_copy(
                update={"columns": (*sections.subgroups.columns, *TABLE), "verdict": said,
                        "groups": (*sections.subgroups.groups, *groups), "gaps": gaps,
                        "unknown": {"nombre": 2}, "left_out": {"apellidos": "no image has a value"}}
            )
        }  # fmt: skip
        if sections.disagreement is not None and sections.disagreement.flips:
            flip = sections.disagreement.flips[0].model_copy(
                update={"groups": {"nombre": "Ana Ruiz"}}
            )
            update["disagreement"] = sections.disagreement.model_copy(update={"flips": (flip,)})
        return sections.model_copy(update=update)

    records = tuple(
        record.model_copy(
            update={"judgements": {k: named(v) for k, v in record.judgements.items()}}
        )
        for record in study.candidates
    )
    audit = study.audit.model_copy(
        update={
            "groups": TABLE,
            "warnings": ("'pacientes_Ruiz.csv' is read with the column 'imagen' as path",
                         "1 table not used: no column of labels ('x/Ana Ruiz.xlsx')"),
            "left_out": (LeftOut(path="pacientes_Ruiz.csv: NHC2", kind="column", reason="an id"),
                         LeftOut(path="...", kind="file", reason="no picture")),
        }
    )  # fmt: skip
    row = ExternalRow(
        digest="0", per_image="x", evidence={}, confusion=[],
        verdict=verdict_of("fail", "Accuracy in nombre: Ana Ruiz fell."),
        judgements=next(j for r in records for j in r.judgements.values() if j.subgroups),
    )  # fmt: skip
    test = ExternalTest(
        name="B", created="2026-02-03T10:11:12+00:00", images=9, rows={records[0].name: row},
        refused=(Unreadable(path="e/Ana Ruiz.jpg", reason="a blank one"),),
    )  # fmt: skip
    return study.model_copy(
        update={"audit": audit, "candidates": records, "external_tests": (test,),
                "verdict": verdict_of("fail", "Accuracy in nombre: Ana Ruiz fell.")}
    )  # fmt: skip


@pytest.mark.parametrize("privacy", ["standard", "strict"])
def test_p1_columns_in_another_language_name_nobody(
    spanish: Result, tmp_path: Path, privacy: str
) -> None:
    pages = written(spanish, tmp_path, privacy)
    strict = pages if privacy == "strict" else {name: pages[name] for name in SENT}
    for name, text in strict.items():
        if name.endswith(".yaml"):
            continue
        assert [value for value in (*TELLING, "pacientes_Ruiz") if value in text] == [], name
    for name in ("model-card.md", "dossier.md"):
        told = "5 group columns are left out, since nothing shows that they do not identify people"
        assert told in pages[name]
        assert "La Paz" in pages[name]
    private = sent(spanish).model_dump_json()
    assert [v for v in (*TELLING, "pacientes_Ruiz", "Ana Ruiz.jpg") if v in private] == []
    assert private.count('"path":"..."') == 1
    assert sent(sent(spanish)) == sent(spanish)


def test_p3_the_terminal_of_a_strict_study_names_nobody(
    spanish: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for privacy, here in (("strict", False), ("standard", True)):
        study = spanish.model_copy(update={"recipe": spanish.recipe | {"privacy": privacy}})
        show_result(study, tmp_path)
        assert ("Ana Ruiz" in "".join(capsys.readouterr())) == here
        show_external(study.external_tests[0], study, tmp_path)
        assert ("Ana Ruiz" in "".join(capsys.readouterr())) == here


@pytest.mark.nightly
def test_p3_a_strict_run_of_a_table_in_spanish_names_nobody(tmp_path: Path) -> None:
    """The whole way: table, training, evidence, pages and bundle; its store is no page."""
    people = [("Ana Ruiz", "1948-08-08", "García"), ("luis peña", "1951-02-03", "Núñez")]
    draw_phantoms(tmp_path / "set", patients=120, seed=1, size=32)
    with (tmp_path / "set/manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    (tmp_path / "set/manifest.csv").unlink()
    lines = ["path;label;nombre;fecha_nacimiento;médico;hospital"]
    for number, row in enumerate(rows):
        cells = (row["path"], row["label"], *people[number * 7919 // 3 % 2], "ABC"[number % 3])
        lines.append(";".join(cells))
    table = tmp_path / "set/pacientes_Ruiz.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run_study(small_study(privacy="strict"), table, tmp_path / "run")
    pages = [
        path
        for path in (tmp_path / "run").rglob("*")
        if path.is_file() and path.parent.name in {"run", "bundle"}
    ]
    assert {"card.json", "README.txt", "result.json", "dossier.md"} <= {path.name for path in pages}
    for path in pages:
        text = path.read_text(encoding="utf-8", errors="replace")
        told = [cell for person in people for cell in person if cell in text]
        assert told == [], path.name
        assert "pacientes_Ruiz" not in text, path.name
    card = (tmp_path / "run/model-card.md").read_text(encoding="utf-8")
    assert "3 group columns are left out" in card
    assert "hospital: A" in card


def test_p1_full_adds_them(spanish: Result, tmp_path: Path) -> None:
    pages = written(spanish, tmp_path, "full")
    assert "Ana Ruiz" in pages["dossier.md"]
    assert "group columns are left out" not in pages["dossier.md"]


def test_p1_plain_words_of_sentences_stay(make_study: Make) -> None:
    study = with_judgements(make_study(classes=("a", "b", "c")))
    said = verdict_of("fail", "On the test images of fold: test accuracy fell by 2.0 points.")
    audit = study.audit.model_copy(update={"groups": {"fold": {"test": 3, "images": 2, "2.0": 1}}})
    private = sent(study.model_copy(update={"audit": audit, "verdict": said}))
    text = private.verdict.reasons[0].text
    assert text == f"On the test images of fold: {LEFT_OUT} accuracy fell by 2.0 points."


def test_paths_are_known_by_their_key_and_by_their_look() -> None:
    tree = {
        "a": ["/data/x", "../x", "C:\\x", "~/x", "w.safetensors"],
        "path": "x",
        "b": "CT/MR, 1.5",
    }
    assert without_paths(tree) == {"a": [LEFT_OUT] * 5, "path": LEFT_OUT, "b": "CT/MR, 1.5"}


def test_f4_a_bundle_holds_no_image_of_the_set(
    finished: tuple[Path, Result], phantoms: Path
) -> None:
    folder, result = finished
    bundle = folder / (result.bundle or "")
    with Image.open(bundle / "sample.png") as picture:
        mine = np.asarray(picture)
    decoded = [np.asarray(Image.open(path)) for path in phantoms.parent.rglob("*.png")]
    assert len(decoded) > 100
    for other in decoded:
        same = (
            np.asarray(Image.fromarray(other).resize(mine.shape[::-1]))
            if other.shape != mine.shape
            else other
        )
        assert np.corrcoef(same.ravel(), mine.ravel())[0, 1] < 0.999
    names = {path.name for path in phantoms.parent.rglob("*.png")} | {str(phantoms.parent)}
    for path in (*bundle.iterdir(), *(folder / name for name in SENT)):
        text = path.read_bytes().decode("latin-1")
        assert [name for name in names if name in text] == [], path.name
    readme = (bundle / "README.txt").read_text(encoding="utf-8")
    assert "sample.png, for the self-test: SYNTHETIC: drawn by clinipress, not a patient" in readme
    assert json.loads((bundle / "card.json").read_text())["self_test"]["label"]


def test_f4_a_named_sample_is_looked_at_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="whose person consented"):
        check_sample(small_study(sample=str(tmp_path / "none.png")))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError):
        check_sample(small_study(sample=str(tmp_path / "text.png")))
    check_sample(small_study())


@pytest.mark.parametrize("colourful", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_drawn_samples_are_of_the_kind_that_a_bundle_takes(channels: Any, colourful: bool) -> None:
    spec = InputSpec(channels=channels, height=24, width=40)
    drawn = drawn_samples(spec, colourful=colourful)
    assert drawn.shape[1:] == (channels, 24, 40)
    assert np.array_equal(drawn, drawn_samples(spec, colourful=colourful))
    for picture in drawn:
        assert contrast_refusal(picture) is None
        if channels == 3:
            assert is_colourful(picture) == colourful
