"""The grids: valid studies, of networks that exist, within a bound of work."""

import pytest

from clinipress.models.catalogue import model_named
from clinipress.papers.grids import Entry, RowPlan, grid
from clinipress.papers.papers import PAPERS
from clinipress.papers.recipes import MODERATE_PIXELS, SMALL_PIXELS, ImageFacts, reductions
from clinipress.recipe.techniques import step_names

SCALES = ("small", "moderate", "full")
EVERY = [(source, scale) for source in PAPERS for scale in SCALES]


def made(entry: Entry) -> set[str]:
    """Names of the candidates that a study's result will hold."""
    study = entry.study
    names = ["reference", *step_names(study.steps)]
    controls = [
        f"{name}-control"
        for name, step in zip(names[1:], study.steps, strict=True)
        if getattr(step, "control", False)
    ]
    files = [f"{names[-1]}-{e.format}-{e.precision}" for e in study.exports]
    return {*names, *controls, *files}


def strangers(entry: Entry) -> set[str]:
    return {name for plan in entry.rows for name in plan.of.values()} - made(entry)


@pytest.mark.parametrize(("source", "scale"), EVERY)
def test_every_row_names_candidates_that_its_study_makes(source, scale):
    for entry in grid(source, scale, ImageFacts(900)):
        assert strangers(entry) == set()


def test_the_row_check_can_fail():
    entry = grid("s4", "small", ImageFacts(900))[0]
    wrong = Entry(entry.key, entry.study, (RowPlan("x", {"row": "distilled"}),))
    assert strangers(wrong) == {"distilled"}


@pytest.mark.parametrize(("source", "scale"), EVERY)
def test_keys_differ_and_who_lends_comes_first(source, scale):
    seen: list[str] = []
    for entry in grid(source, scale, ImageFacts(900)):
        assert entry.key not in seen
        assert entry.borrows is None or entry.borrows in seen
        seen.append(entry.key)


@pytest.mark.parametrize("source", PAPERS)
def test_distilled_rows_have_their_control(source):
    plans = [plan for entry in grid(source, "small", ImageFacts(900)) for plan in entry.rows]
    distilled = [p for p in plans if "distilled" in p.of.values()]
    controls = [p for p in plans if p.control]
    assert len(controls) == len(distilled)
    assert all("alpha = 0" in plan.name for plan in controls)


@pytest.mark.parametrize("source", PAPERS)
def test_small_scale_is_small_whatever_the_set(source):
    for count in (500, 3_264, 6_000, 100_000):
        images = ImageFacts(count)
        for entry in grid(source, "small", images):
            study = entry.study
            assert (study.data.input.height, study.data.input.width) == (SMALL_PIXELS,) * 2
            assert study.seeds == ()
            if entry.borrows is None:
                trained = 0.6 * min(count, study.data.sample)
                assert study.reference.train.epochs * trained <= 35_000


@pytest.mark.parametrize("source", PAPERS)
def test_full_scale_has_published_pixels_hub_weights_and_seeds(source):
    for entry in grid(source, "full", ImageFacts(900)):
        study = entry.study
        named = model_named(study.reference.model.name)
        assert study.data.input.height == named.size
        assert study.reference.model.pretrained is named.pretrained.startswith("hub")
        assert len(study.seeds) == 2


@pytest.mark.parametrize("source", PAPERS)
def test_moderate_scale_learns_from_random_weights(source):
    for entry in grid(source, "moderate", ImageFacts(900)):
        study = entry.study
        assert study.data.input.height == MODERATE_PIXELS
        assert study.reference.model.pretrained is False
        assert study.seeds == ()
        if entry.borrows is None and not study.reference.train.stages:
            assert study.reference.train.epochs == 30


def test_s0_has_the_seven_teachers():
    keys = {entry.key for entry in grid("s0", "small", ImageFacts(900))}
    assert keys == {
        *("densenet121", "resnet50", "efficientnet_b3", "vgg16", "vgg19", "xception"),
        "nasnet_a_mobile",
    }


def test_s1_trains_mobilenet_in_three_stages_and_makes_all_files():
    first, again, dense = grid("s1", "full", ImageFacts(3264))
    assert [stage.train for stage in first.study.reference.train.stages] == ["head", "all", "all"]
    files = [(export.format, export.precision) for export in first.study.exports]
    assert ("litert", "float16") in files
    assert again.borrows == first.key
    assert {e.precision for e in dense.study.exports} == {"int8", "int4-weights"}


def test_s2_teaches_one_student_and_asks_where_all_look():
    entries = grid("s2", "small", ImageFacts(900))
    assert {entry.study.steps[0].student.name for entry in entries} == {"ofa_595"}
    assert all(entry.study.evidence.saliency for entry in entries)


def test_s4_halves_the_parameters_and_all_share_one_network():
    first, *others = grid("s4", "small", ImageFacts(900))
    assert all(entry.borrows == first.key for entry in others)
    prune = next(e for e in others if e.key == "pruned").study.steps[0]
    assert (prune.ratio, prune.of) == (0.5, "parameters")


def test_small_says_what_it_leaves_out():
    assert "64 pixels" in reductions("small")
    assert "random weights" in reductions("small")
    assert reductions("full") != reductions("small")
