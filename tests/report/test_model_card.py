"""The model card against the Hub's own reader."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from clinipress.records.result import Result
from clinipress.reporting.model_card.card import model_card
from clinipress.reporting.model_card.hub import metadata
from clinipress.reporting.view import View
from clinipress.reporting.wording.lead import lead
from clinipress.reporting.wording.limits import limits
from kit.judgements import with_judgements

Make = Callable[..., Result]


def hub() -> Any:
    """The Hub's reader, which comes with timm."""
    return pytest.importorskip("huggingface_hub")


def front(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_hub_reads_every_result_as_it_was_measured(make_study: Make) -> None:
    study = make_study()
    data = hub().ModelCard(model_card(study)).data
    shipped = next(one for one in study.candidates if one.name == study.shipped)
    values = {one.metric_name.partition(" (")[0]: one for one in data.eval_results}
    accuracy = values["Accuracy"]
    assert accuracy.metric_value == shipped.evidence["test"]["accuracy"].value
    assert accuracy.dataset_split == "test"
    assert accuracy.metric_args["low"] == shipped.evidence["test"]["accuracy"].low
    assert accuracy.metric_args["high"] == shipped.evidence["test"]["accuracy"].high
    assert accuracy.metric_args["cases"] == shipped.evidence["test"]["accuracy"].n
    assert "95% interval" in accuracy.metric_name
    recalls = [one for one in data.eval_results if one.metric_type == "recall"]
    assert [one.metric_args["class"] for one in recalls] == list(study.classes)
    assert data.pipeline_tag == "image-classification"
    assert data.library_name == "clinipress"
    assert data.model_name == f"{study.study}-{study.shipped}"


def test_the_hub_writes_the_same_metadata_again(make_study: Make) -> None:
    study = make_study()
    data = hub().ModelCard(model_card(study)).data
    again = hub().ModelCardData(
        **{key: value for key, value in metadata(study).items() if key != "model-index"},
        model_name=data.model_name,
        eval_results=data.eval_results,
    )
    assert yaml.safe_load(again.to_yaml()) == metadata(study)


def test_the_hub_does_not_read_a_broken_index(make_study: Make) -> None:
    card = model_card(make_study())
    broken = card.replace("    - type: accuracy\n", "    - kind: accuracy\n", 1)
    assert broken != card
    with pytest.raises((KeyError, ValueError)):
        hub().ModelCard(broken)


def test_metadata_survive_names_with_signs_of_yaml(make_study: Make, hostile: str) -> None:
    classes = ("yes: no", "- item", "{a: b}", hostile)
    study = make_study(classes=classes)
    assert front(model_card(study)) == metadata(study)


def test_what_the_records_lack_is_said(make_study: Make) -> None:
    card = model_card(make_study())
    assert "license: unknown" in card
    assert "## Calibration and thresholds\n\nCalibration after a temperature: not measured." in card
    assert "Operating points: not measured." in card
    assert "Figures by group: not measured." in card
    assert card.count("for you to complete") >= 4
    assert "emission" not in card.lower()  # nothing of the kind is measured


def test_measured_sections_are_shown_with_their_figures(make_study: Make) -> None:
    study = with_judgements(make_study(), missing={"operating": "no validation scores"})
    card = model_card(study)
    found = View(study).subject.judgements["test"]  # type: ignore[union-attr]
    assert found.calibration is not None
    assert found.subgroups is not None
    assert f"Temperature {found.calibration.temperature:.3g}" in card
    assert "Operating points: not measured (no validation scores)." in card
    small = [one for one in found.subgroups.groups if one.too_small]
    for one in small:
        row = next(line for line in card.splitlines() if f"{one.column}: {one.value}" in line)
        assert "too small" in row
        assert "%" not in row
    assert len(small) >= 1


def test_thresholds_are_those_of_the_model_itself(make_study: Make) -> None:
    study = with_judgements(make_study())
    section = View(study).subject.judgements["test"].operating  # type: ignore[union-attr]
    assert section is not None
    own = [row for row in section.rows if not row.kept]
    part = model_card(study).partition("## Calibration")[2].partition("## Subgroups")[0]
    assert part.count(" | sensitivity 0.95 | ") + part.count(" | specificity 0.95 | ") == len(own)


def test_verdict_and_limitations_are_the_report_s_own(make_study: Make) -> None:
    study = make_study()
    card, view = model_card(study), View(study)
    assert lead(view).headline in card
    assert len(re.findall(r"^- ", card.partition("## Limitations")[2], re.M)) == len(limits(view))


def test_a_model_that_is_not_shipped_is_marked(make_study: Make) -> None:
    study = make_study(status="fail").model_copy(update={"shipped": None, "bundle": None})
    card = model_card(study)
    assert "**Not selected**" in card
    assert "clinipress predict" not in card
    assert "No bundle was written" in card


def test_drawn_images_are_marked(make_study: Make) -> None:
    study = make_study(synthetic=True)
    assert "**SYNTHETIC**" in model_card(study)
    assert "synthetic" in metadata(study)["tags"]


def test_no_folder_of_the_machine_is_told(make_study: Make) -> None:
    study = make_study()
    audit = study.audit.model_copy(update={"path": "/home/someone/images/brain"})
    card = model_card(study.model_copy(update={"audit": audit}))
    assert "someone" not in card
    assert front(card)["datasets"] == ["brain"]


@pytest.mark.parametrize(
    ("form", "package"), [("onnx", "clinipress"), ("openvino", "'clinipress[openvino]'")]
)
def test_running_it_needs_the_engine_of_its_format(
    make_study: Make, form: str, package: str
) -> None:
    study = make_study()
    records = tuple(
        one.model_copy(update={"format": form}) if one.name == study.shipped else one
        for one in study.candidates
    )
    card = model_card(study.model_copy(update={"candidates": records}))
    assert f"pip install {package}\nclinipress predict bundle image.png" in card


def test_a_record_without_measurements_still_makes_a_card(make_study: Make) -> None:
    study = make_study()
    bare = tuple(
        one.model_copy(update={"evidence": {}, "changes": {}, "latency_ms": None})
        for one in study.candidates
    )
    card = model_card(study.model_copy(update={"candidates": bare}))
    assert "model-index" not in front(card)
    assert "not measured" in card
