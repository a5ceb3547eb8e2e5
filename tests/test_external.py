"""A finished study on images from elsewhere, and two sets of scores without any model."""

import dataclasses
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from clinipress.cli.commands import main
from clinipress.cli.terminal import show_comparison, show_evidence, show_external
from clinipress.data.drawn.phantom import draw_phantoms
from clinipress.errors import DataError, InputError
from clinipress.evidence.scores import Scores
from clinipress.records.store import read_result, write_atomically
from clinipress.reporting.page.build import write_report
from clinipress.reporting.view import View
from clinipress.reporting.wording.lead import lead
from clinipress.reporting.wording.limits import limits
from clinipress.reporting.wording.phrases import overlap_sentence
from clinipress.study.external import _order_question, compare, evaluate, evaluate_run, parse_floors
from clinipress.study.flow import run_study
from clinipress.study.redraw import redraw, with_checks
from clinipress.text import STATUS_WORDS
from kit.planted import reference
from kit.studies import study


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """SYNTHETIC images of other patients, another class name among them."""
    table = draw_phantoms(tmp_path_factory.mktemp("there"), patients=60, seed=7, size=32)
    text = table.read_text().replace(",nodule,", ",lump,")
    table.write_text(text.replace("SYNTHETIC-", "SYNTHETIC-THERE-"))
    return table


@pytest.fixture(scope="module")
def tested(finished, elsewhere, tmp_path_factory):
    run, result = finished
    if result.shipped is None:
        pytest.fail("the small study ships nothing: there is nothing to test elsewhere")
    return run, evaluate_run(run, elsewhere, name="there", class_map="lump=nodule")


def test_what_was_shipped_is_judged_by_the_studys_own_rules(tested, finished):
    test, result = tested[1], finished[1]
    assert list(test.rows) == [result.reference, result.shipped]
    assert test.class_map == {"lump": "nodule"}
    root, mine = test.rows.values()
    assert root.verdict is None
    assert mine.verdict.status in ("pass", "fail", "inconclusive")
    assert mine.evidence["accuracy"].n == test.images
    assert mine.changes["accuracy"].value == pytest.approx(
        mine.evidence["accuracy"].value - root.evidence["accuracy"].value
    )


def test_thresholds_and_temperature_stay_those_of_validation(tested, finished):
    run, test = tested
    name = finished[1].shipped
    there = Scores.load(run / test.rows[name].per_image)
    row = next(r for r in finished[1].candidates if r.name == name)
    at_home = Scores.load(run / row.per_image["validation"])
    assert there.temperature == at_home.temperature
    assert not set(there.keys) & set(at_home.keys) or len(there.keys) != len(at_home.keys)
    section = test.rows[name].judgements.operating
    inside = row.judgements["validation"].operating
    assert [r.threshold for r in section.rows] == [r.threshold for r in inside.rows]


def test_the_report_shows_it_beside_the_internal_figures(tested):
    run, test = tested
    result = with_checks(read_result(run), run)
    for row in result.candidates:
        assert ("external: there" in row.evidence) == (row.name in test.rows)
    page = write_report(result, run).read_text()
    assert '<section id="external"' in page
    assert "external (there)" in page
    assert result.external_tests[0].images == test.images
    (words,) = lead(View(result)).external
    assert words.startswith("there: accuracy ")
    verdict = test.rows[result.shipped].verdict
    assert f": {STATUS_WORDS[verdict.status]}. " in words


def test_the_terminal_shows_it_beside_the_internal_accuracy(tested, capsys):
    """The figures move to the candidates where the record is read again."""
    run, test = tested
    result = with_checks(read_result(run), run)
    show_external(test, result, run / "report.html")
    shown = "".join(capsys.readouterr())
    assert "not measured" not in shown
    for row in test.rows.values():
        assert f"{100 * row.evidence['accuracy'].value:.1f}% (" in shown
    assert f"{100 * test.rows[result.shipped].changes['accuracy'].low:.1f} to".lstrip("-") in shown


def test_a_test_of_other_files_is_set_aside(tested, tmp_path):
    run = shutil.copytree(tested[0], tmp_path / "run")
    path = run / "external" / "there.json"
    tree = json.loads(path.read_text())
    for row in tree["rows"].values():
        row["digest"] = "0" * 64
    for text, why in ((json.dumps(tree), "other model files"), ("{}", "damaged"), ("[", "damaged")):
        path.write_text(text)
        result = with_checks(read_result(run), run)
        assert not result.external_tests
        assert why in result.set_aside["external/there.json"]
        assert str(tmp_path) not in result.set_aside["external/there.json"]


def test_e1_a_run_again_shows_the_external_tests_as_its_report_does(tested, phantoms, tmp_path):
    run = shutil.copytree(tested[0], tmp_path / "small")
    redraw(run)
    pages = [(run / name).read_text().split("Made on ")[0] for name in ("report.md", "report.html")]
    again = run_study(study(), phantoms, run)
    assert [test.name for test in again.external_tests] == ["there"]
    assert lead(View(again)).external == lead(View(redraw(run)[0])).external
    first_screen = (run / "report.md").read_text().partition("## ")[0]
    minutes = re.compile(r"\d+ \w+ \d{4}, \d\d:\d\d UTC")  # it was made at another time
    assert minutes.sub("", first_screen) == minutes.sub("", pages[0].partition("## ")[0])
    assert "there: accuracy " in (run / "report.md").read_text()
    assert not read_result(run).external_tests


def test_e3_limits_know_of_the_external_tests(tested):
    run, _ = tested
    stored = read_result(run)
    assert any(text.startswith("No external test") for text in stored.limits)
    reservations = limits(View(with_checks(stored, run)))
    assert not any(text.startswith("No external test") for text in reservations)
    assert sum(text.startswith("Groups are known by") for text in reservations) == 1
    assert len({text[:12] for text in stored.limits} - {text[:12] for text in reservations}) == 1


def test_foreign_classes_are_refused(finished, elsewhere):
    with pytest.raises(DataError, match="class-map"):
        evaluate_run(finished[0], elsewhere, name="x")


# ------------------------------------------------------------------------- the study's own images


def test_blanks_of_findings_mean_nothing_to_one_class_an_image(finished, elsewhere):
    bundle = finished[0] / "bundle"
    with pytest.raises(
        InputError, match="--blank and --uncertain with a model of several findings"
    ):
        evaluate(bundle, elsewhere, class_map="lump=nodule", blank="absent")


def test_a4_a_studys_own_images_are_not_from_elsewhere(finished, phantoms):
    """The trial of the fault: the whole set of the study, called external."""
    with pytest.raises(DataError, match="images that the study has not seen") as refusal:
        evaluate_run(finished[0], phantoms, name="own")
    assert "--overlap" not in str(refusal.value).split("got")[0]
    assert not (finished[0] / "external" / "own.json").exists()
    with pytest.raises(DataError, match="nothing would be left"):
        evaluate_run(finished[0], phantoms, name="own", overlap="leave-out")
    with pytest.raises(InputError, match="not from elsewhere"):
        evaluate_run(finished[0], phantoms, name="own", overlap="keep")


@pytest.fixture
def mixed(elsewhere, phantoms, tmp_path):
    """Images from elsewhere, and ten of the study's own among them."""
    folder = shutil.copytree(elsewhere.parent, tmp_path / "mixed")
    head, *rows = phantoms.read_text().splitlines()
    for number in range(10):
        name, *rest = rows[number].split(",")
        shutil.copy(phantoms.parent / name, folder / f"own-{number}.png")
        rows[number] = ",".join([f"own-{number}.png", *rest])
    lines = [elsewhere.read_text().rstrip(), *rows[:10]]
    (folder / "manifest.csv").write_text("\n".join(lines).replace(",nodule,", ",lump,") + "\n")
    assert head == elsewhere.read_text().splitlines()[0]
    return folder / "manifest.csv"


def test_a4_own_images_among_others_are_left_out_by_number(tested, mixed, finished, tmp_path):
    with pytest.raises(DataError, match=r"10 of \d+ .*--overlap leave-out"):
        evaluate_run(finished[0], mixed, name="mixed", class_map="lump=nodule")
    run = shutil.copytree(finished[0], tmp_path / "run")
    test = evaluate_run(run, mixed, name="mixed", class_map="lump=nodule", overlap="leave-out")
    assert (test.overlap.exact, test.overlap.near, test.overlap.left_out) == (10, 0, 10)
    assert test.overlap.compared_with == finished[1].audit.images
    assert len(test.overlap.examples) == 10
    assert test.images == tested[1].images
    accuracies = [t.rows["reference"].evidence["accuracy"] for t in (test, tested[1])]
    assert accuracies[0] == accuracies[1]
    page = write_report(with_checks(read_result(run), run), run).read_text()
    images = finished[1].audit.images
    assert (
        f"10 images of this set are among the {images:,} images of the study (10 the same" in page
    )
    assert "were left out" in page


def test_a4_a_bundle_knows_what_it_has_seen_and_carries_no_picture(finished, mixed, phantoms):
    bundle = finished[0] / "bundle"
    with pytest.raises(DataError, match="has not seen"):
        evaluate(bundle, phantoms, resamples=100)
    facts = evaluate(bundle, mixed, class_map="lump=nodule", overlap="leave-out", resamples=100)
    assert facts["overlap"]["left_out"] == facts["overlap"]["exact"] == 10
    # whoever asks for a study's own images gets their figures, and is told that they are
    own = evaluate(bundle, phantoms, overlap="keep", resamples=100)
    assert own["images"] == own["overlap"]["exact"]
    with np.load(bundle / "fingerprints.npz") as file:
        assert set(file.files) == {"digests", "fine"}


def turned(path, count):
    """The first images of a set, mirrored, upside down and inverted in turn; written over."""
    for number in range(count):
        with Image.open(path / f"own-{number}.png") as image:
            turns = (ImageOps.mirror, lambda i: i.rotate(90), ImageOps.invert)
            turns[number % 3](image).save(path / f"own-{number}.png")


def test_17_turned_copies_are_left_out_and_named(finished, mixed, tmp_path):
    turned(mixed.parent, 10)
    with pytest.raises(DataError, match="these 4 mirrored; 3 inverted; 3 rotated"):
        evaluate_run(finished[0], mixed, name="mixed", class_map="lump=nodule")
    run = shutil.copytree(finished[0], tmp_path / "run", ignore=shutil.ignore_patterns("external"))
    test = evaluate_run(run, mixed, name="mixed", class_map="lump=nodule", overlap="leave-out")
    assert test.overlap.turned == {"mirrored": 4, "inverted": 3, "rotated": 3}
    assert (test.overlap.exact, test.overlap.near, test.overlap.left_out) == (0, 10, 10)
    (words,) = lead(View(with_checks(read_result(run), run))).external
    assert "10 nearly the same picture, of these 4 mirrored; 3 inverted; 3 rotated" in words
    before = test.overlap.model_copy(update={"turned": None, "near": 0})
    assert "but not mirrored, rotated or inverted copies" in overlap_sentence(before)
    facts = evaluate(
        run / "bundle", mixed, class_map="lump=nodule", overlap="leave-out", resamples=100
    )
    assert facts["overlap"]["turned"] == test.overlap.turned


def test_17_a_comparison_looks_for_the_studys_own_images(
    finished, elsewhere, mixed, tmp_path, capsys
):
    """Wherever a model lies: in the run folder, in a bundle, or nowhere that is known."""
    run, result = finished
    trained = run / result.candidates[0].path
    asked = {"class_map": "lump=nodule", "resamples": 100}
    for a, b in ((trained, run / "bundle"), (run / "bundle", run / "bundle")):
        found = compare(a, b, mixed, **asked)
        assert (found["overlap"]["exact"], found["overlap_unknown"]) == (10, [])
        assert compare(a, b, elsewhere, **asked)["overlap"]["exact"] == 0
        with pytest.raises(DataError, match="has not seen"):
            compare(a, b, mixed, overlap="refuse", **asked)
        left = compare(a, b, mixed, overlap="leave-out", **asked)
        assert left["images"] == found["images"] - 10
    alone = shutil.copy(trained, tmp_path / "alone.onnx")
    found = compare(alone, run / "bundle", mixed, **asked)
    assert (found["overlap"]["exact"], found["overlap_unknown"]) == (10, [str(alone)])
    show_comparison(found)
    printed = " ".join(capsys.readouterr().out.split())
    assert "10 images of this set are among the" in printed
    assert "are counted here" in printed
    assert f"Not looked for: what {alone} was made from" in printed
    unknown = compare(alone, alone, mixed, **asked)
    assert unknown["overlap"]["compared_with"] == 0
    assert unknown["overlap_unknown"] == [str(alone), str(alone)]
    show_comparison(unknown)
    assert "Not looked for: the study's own images" in capsys.readouterr().out
    with pytest.raises(DataError, match="has not seen"):
        evaluate(trained, mixed, **asked)
    show_evidence(evaluate(alone, mixed, **asked))
    assert "Not looked for: the study's own images" in capsys.readouterr().out


def test_e5_patients_of_the_study_are_counted_by_name(finished, elsewhere, tmp_path):
    """Other pictures of the same patients, or another hospital's same numbers: a warning."""
    folder = shutil.copytree(elsewhere.parent, tmp_path / "same")
    table = folder / elsewhere.name
    head, *rows = table.read_text().splitlines()
    rows[:15] = [row.replace("SYNTHETIC-THERE-", "SYNTHETIC-") for row in rows[:15]]
    table.write_text("\n".join([head, *rows]) + "\n")
    run = shutil.copytree(finished[0], tmp_path / "run", ignore=shutil.ignore_patterns("external"))
    test = evaluate_run(run, table, name="same", class_map="lump=nodule")
    assert (test.overlap.patients, test.overlap.left_out, test.images) == (15, 0, len(rows))
    text = "15 images name a patient that the study has, too: the same person, or the same number"
    assert any(warning.startswith(text) for warning in test.warnings)
    (words,) = lead(View(with_checks(read_result(run), run))).external
    assert text in words
    assert "--overlap leave-out" in words
    test = evaluate_run(run, table, name="same", class_map="lump=nodule", overlap="leave-out")
    assert (test.overlap.patients, test.overlap.left_out) == (15, 15)
    assert test.images == len(rows) - 15
    assert "they were left out" in lead(View(with_checks(read_result(run), run))).external[0]
    # only the run folder knows, and a run of before does not
    with np.load(run / "fingerprints.npz") as file:
        arrays = {name: file[name] for name in file.files if name not in ("patients", "salt")}
        assert len(file["patients"]) == finished[1].audit.patients
    np.savez(run / "fingerprints.npz", **arrays)
    test = evaluate_run(run, table, name="same", class_map="lump=nodule")
    assert test.overlap.patients is None
    (words,) = lead(View(with_checks(read_result(run), run))).external
    assert "Whether it names patients of this study was not checked." in words


def test_a4_a_run_of_before_says_that_it_cannot_know(finished, elsewhere, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    (run / "fingerprints.npz").unlink()
    test = evaluate_run(run, elsewhere, name="there", class_map="lump=nodule")
    assert test.overlap.compared_with == 0
    page = write_report(with_checks(read_result(run), run), run).read_text()
    assert "Not looked for: the study&#x27;s own images among these" in page


def test_17_a_strict_study_writes_no_folders_name(finished, elsewhere, tmp_path):
    """By bytes of all that lies in the run folder; the same set again takes its own number."""
    folder = tmp_path / "Ana_Ruiz_1948"
    table = shutil.copytree(elsewhere.parent, folder) / elsewhere.name
    table = table.rename(folder / "Ana_Ruiz_1948.csv")
    run = shutil.copytree(finished[0], tmp_path / "run", ignore=shutil.ignore_patterns("external"))
    tree = json.loads((run / "result.json").read_text())
    tree["recipe"]["privacy"] = "strict"
    (run / "result.json").write_text(json.dumps(tree))
    for _ in range(2):
        test = evaluate_run(run, table, class_map="lump=nodule")
        assert (test.name, test.named) == ("external-set-1", False)
    redraw(run)
    assert "external set 1" in (run / "report.md").read_text()
    here = b"Ana_Ruiz"
    assert [p for p in run.rglob("*") if p.is_file() and here in p.read_bytes()] == []
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:1], *lines[61:]]).replace(",lump,", ",normal,"))
    assert evaluate_run(run, table).name == "external-set-2"


def test_a5_worse_than_chance_elsewhere_is_at_most_inconclusive(finished, elsewhere, tmp_path):
    """The trial of the fault: labels turned, so that the reference is worse than guessing."""
    run = shutil.copytree(finished[0], tmp_path / "run")
    turned = "lump=normal,normal=opacity,opacity=nodule"
    test = evaluate_run(run, elsewhere, name="turned", class_map=turned)
    (verdict,) = (row.verdict for row in test.rows.values() if row.verdict)
    assert verdict.status != "pass"
    (reason,) = (reason for reason in verdict.reasons if reason.kind == "weak reference")
    assert "chance" in reason.text
    page = write_report(with_checks(read_result(run), run), run).read_text()
    section = page.split('<section id="external"')[1]
    name = finished[1].shipped
    home = next(row for row in finished[1].candidates if row.name == name).evidence["test"]
    inside, outside = (100 * e["accuracy"].value for e in (home, test.rows[name].evidence))
    lead = section.split("</p>")[0]
    assert f"{outside:.1f}" in lead
    assert f"{inside:.1f}" in lead


def test_a1_changed_rules_cap_an_external_test_too(finished, elsewhere, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    tree = json.loads((run / "result.json").read_text())
    tree["rule_changes"] = [
        {"what": "risk", "before": "high", "after": "low", "when": "2026-11-28T22:35:00+00:00"}
    ]
    (run / "result.json").write_text(json.dumps(tree))
    test = evaluate_run(run, elsewhere, name="there", class_map="lump=nodule")
    (verdict,) = (row.verdict for row in test.rows.values() if row.verdict)
    assert verdict.status != "pass"
    assert verdict.reasons[-1].kind == "weak reference"
    reason = next(reason for reason in verdict.reasons if reason.kind == "rules changed")
    assert "risk from high to low (first seen 28 November 2026, 22:35 UTC)" in reason.text


# ------------------------------------------------------------------------------ the finding's name


def two_classes(folder, positive=None):
    """SYNTHETIC answers of two models to the same images."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    paths = []
    for name in ("a", "b"):
        logits = random.normal(size=(200, 2)).astype(np.float32)
        logits[np.arange(200), labels] += 2
        keys = tuple(map(str, range(200)))
        scores = Scores(logits, labels, np.arange(200), keys, ("covid", "normal"), positive)
        scores.save(folder / f"{name}.npz")
        paths.append(folder / f"{name}.npz")
    return paths


def test_a2_of_two_classes_the_finding_is_asked_for(tmp_path):
    paths = two_classes(tmp_path)
    with pytest.raises(InputError, match="add --positive covid or --positive normal"):
        compare(*paths, resamples=100)
    found = compare(*paths, positive="covid", resamples=100)
    evidence = found["candidates"][1]["evidence"]["data"]
    assert found["positive"] == "covid"
    assert evidence["sensitivity"] == evidence["sensitivity[covid]"]
    with pytest.raises(InputError, match="did you mean 'covid'"):
        compare(*paths, positive="covit", resamples=100)
    named = two_classes(tmp_path, "covid")
    assert compare(*named, resamples=100)["verdict"] == found["verdict"]
    with pytest.raises(InputError, match="leave it out"):
        compare(*named, positive="normal", resamples=100)


def test_floors_of_a_comparison(tmp_path):
    paths = two_classes(tmp_path, "covid")
    strict = compare(*paths, risk="high", resamples=100)["verdict"]
    assert "no floor" in [reason["kind"] for reason in strict["reasons"]]
    floors = parse_floors(["accuracy=0.5", "sensitivity[covid]=0.99"])
    verdict = compare(*paths, risk="high", floors=floors, resamples=100)["verdict"]
    assert "no floor" not in [reason["kind"] for reason in verdict["reasons"]]
    by_metric = {r["metric"]: r["status"] for r in verdict["reasons"] if r["kind"] == "floor"}
    assert by_metric == {"accuracy": "pass", "sensitivity": "fail"}
    assert verdict["status"] == "fail"
    for text in ("accuracy", "=0.5", "accuracy=2", "accuracy=x", "acuracy=0.5", "log_loss=0.5"):
        with pytest.raises(InputError):
            parse_floors([text])
    with pytest.raises(InputError, match="did you mean 'covid'"):
        compare(*paths, floors={"sensitivity[covd]": 0.5}, resamples=100)


def test_a_run_that_shipped_nothing_has_nothing_to_test(finished, elsewhere, tmp_path):
    tree = json.loads((finished[0] / "result.json").read_text())
    tree |= {"shipped": None, "targets": []}
    (tmp_path / "result.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match="shipped none"):
        evaluate_run(tmp_path, elsewhere)


def test_scores_alone_give_the_same_verdict_as_the_models(finished, phantoms, tmp_path):
    run, result = finished
    paths = [run / row.path for row in result.candidates[:2]]
    kept = [tmp_path / f"{n}.npz" for n in (0, 1)]
    for path, scores in zip(paths, kept, strict=True):
        evaluate(path, phantoms, scores=scores, overlap="keep", resamples=100)
    by_models = compare(*paths, phantoms, resamples=100)
    by_scores = compare(*kept, resamples=100)
    assert by_scores["changes"] == by_models["changes"]
    assert by_scores["verdict"] == by_models["verdict"]
    assert by_scores["judgements"] == by_models["judgements"]


def test_scores_of_other_images_are_refused(finished, tmp_path):
    run, result = finished
    first = Scores.load(run / result.candidates[0].per_image["validation"])
    path = tmp_path / "a.npz"
    first.save(path)
    other = Scores(
        first.logits[1:], first.labels[1:], first.units[1:], first.keys[1:], first.classes,
        groups={name: values[1:] for name, values in first.groups.items()},
    )  # fmt: skip
    other.save(tmp_path / "b.npz")
    with pytest.raises(InputError, match="same images"):
        compare(path, tmp_path / "b.npz")
    with pytest.raises(InputError, match=r"\.npz"):
        compare(path, run / result.candidates[0].path)


def test_groups_of_the_manifest_reach_the_scores(finished):
    run, result = finished
    scores = Scores.load(run / result.candidates[0].per_image["validation"])
    assert {"sex", "age", "scanner"} <= set(scores.groups)
    assert set(scores.groups["sex"]) <= {"M", "F"}
    assert np.isfinite(scores.probabilities).all()


@pytest.mark.parametrize("changed", ["rules", "positive", "validation"])
def test_f1_an_external_test_of_the_run_as_it_was_is_not_shown(
    tested, tmp_path, changed, monkeypatch, capsys
):
    """The files are the same, but not what they were judged by: a stale piece like any other."""
    run = tmp_path / "run"
    shutil.copytree(tested[0], run)
    result = read_result(run)
    assert len(with_checks(result, run).external_tests) == 1
    if changed == "rules":
        rules = [rule.model_copy(update={"margin": rule.margin * 2}) for rule in result.rules]
        result = result.model_copy(update={"rules": tuple(rules)})
    elif changed == "positive":
        data = {**result.recipe["data"], "positive": "normal"}
        result = result.model_copy(update={"recipe": {**result.recipe, "data": data}})
    else:
        path = run / result.candidates[0].per_image["validation"]
        scores = Scores.load(path)
        dataclasses.replace(scores, labels=scores.labels[::-1]).save(path)
    write_atomically(run / "result.json", result.model_dump_json())
    shown, pages = redraw(run)
    assert not shown.external_tests
    assert all("external: there" not in row.evidence for row in shown.candidates)
    sentence = shown.set_aside["external/there.json"]
    assert "other validation images" in sentence
    command = "clinipress evaluate RUN DATA --name there --class-map lump=nodule"
    assert command in sentence
    assert sentence in limits(View(shown))
    assert sentence in lead(View(shown)).external
    assert "was measured with other rules, another finding" in pages[0].read_text()
    monkeypatch.setattr("sys.argv", ["clinipress", "report", str(run)])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    assert command in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"positive": "B"},
        {"groups": {"sex": ("F",) * 40}},
    ],
    ids=str,
)
def test_f_scores_that_cannot_be_are_not_compared(tmp_path, changes):
    """Files of scores that somebody made: no warning of numpy, no silent choice of a finding."""
    scores = replace(reference(n=40, classes=("A", "B")), positive="A")
    scores.save(tmp_path / "a.npz")
    replace(scores, **changes).save(tmp_path / "b.npz")
    with pytest.raises((DataError, InputError)):
        compare(tmp_path / "a.npz", tmp_path / "b.npz", risk="low")


def test_a4_another_set_of_the_same_name_writes_over_nothing(tested, elsewhere, tmp_path):
    """Two hospitals whose folders are both called `data`."""
    run = shutil.copytree(tested[0], tmp_path / "run")
    before = (run / "external/there.json").read_bytes()
    other = elsewhere.with_name("other.csv")
    text = elsewhere.read_text().replace(",normal,", ",N,").replace(",opacity,", ",normal,")
    other.write_text(text.replace(",N,", ",opacity,"))  # the same file names, other images
    with pytest.raises(InputError, match="give --name"):
        evaluate_run(run, other, name="there", class_map="lump=nodule")
    with pytest.raises(InputError, match="without '/'"):
        evaluate_run(run, other, name="a/b", class_map="lump=nodule")
    assert (run / "external/there.json").read_bytes() == before


@pytest.mark.parametrize(
    ("outputs", "asked"),
    [((0, 1, 2), False), ((0, 2, 1), True), ((2, 0, 1), True), (None, False)],
    ids=["right", "two turned", "all turned, as many right as by chance", "a guess"],
)
def test_another_order_of_the_outputs_is_asked_about(outputs, asked):
    """Two of three classes turned leave more right than a guess."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 120)
    logits = draw.normal(size=(120, 3)).astype(np.float32)
    if outputs is not None:
        logits[np.arange(120), np.array(outputs)[labels]] += 3
    scores = Scores(logits, labels, np.arange(120), tuple(map(str, range(120))), ("a", "b", "c"))
    question = _order_question(scores)
    assert bool(question) == asked
    if asked and outputs is not None:
        names = ", ".join("abc"[outputs.index(n)] for n in range(3))
        assert f"if the outputs were {names}: are a, b, c in the order" in question[0]
