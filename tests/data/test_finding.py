"""Which class is the finding, by its name; a wrong guess would turn sensitivity round."""

import pytest

from clinipress.data.finding import check_finding, propose_normal, propose_order, propose_positive
from clinipress.errors import DataError, RecipeError
from clinipress.recipe.study import DataRecipe
from clinipress.study.read import parse_study


def pairs(table: str) -> list[tuple[str, ...]]:
    cells = table.replace("\n", ";").split(";")
    return [tuple(name.strip() for name in cell.split(" | ")) for cell in cells if cell.strip()]


# The finding first, then what is none; in many languages and habits.
FINDING = pairs("""
CT_COVID | CT_NonCOVID; COVID | non-COVID; covid | noncovid; COVID | Normal; tumor | no_tumor
tumour | notumour; yes | no; 1 | 0; class1 | class0; abnormal | normal; malignant | benign
disease | healthy; PNEUMONIA | NORMAL; positive | negative; pos | neg; case | control
patients | controls; Infected | Uninfected; Parasitized | Uninfected; Present | Absent
true | false; Abnormality | No abnormality; Finding | No Finding; DR | No_DR
glaucoma | nonGlaucoma; AD | HealthyControl; effusion | clear; polyp | without polyp
krank | gesund; Befund | ohne Befund; auffällig | unauffällig; bösartig | gutartig
positiv | negativ; malade | sain; maligne | bénigne; avec tumeur | sans tumeur; enfermo | sano
con lesión | sin lesión; maligno | benigno; malato | sana; con nodulo | senza nodulo
doente | saudável; com tumor | sem tumor; ziek | gezond; met tumor | zonder tumor
kwaadaardig | goedaardig; syk | frisk; chory | zdrowy; guz | bez guza; sjuk | utan fynd
больной | здоровый; опухоль | без опухоли; sairas | terve; not normal | normal
non_healthy | healthy; unhealthy | healthy; COVID+ | COVID-; HER2+ | HER2-; 1_tumor | 0_normal
glioma | brain_normal; Cancerous | Non-Cancerous; stroke | NoStroke; fractured | not fractured
melanoma | nonmelanoma; TB | Normal CXR; covid_yes | covid_no; Malignant cases | Normal cases
referable | nonreferable; osteoporosis | normal (no findings); uncontrolled | control group
hasta | saglikli
""")
UNDECIDED = pairs("""
A | B; COVID | pneumonia; left | right; cat | dog; 2 | 1; benign | normal
non_small_cell | small_cell; Non-Hodgkin | Hodgkin; clear cell | papillary
triple_negative | luminal; adenoma | serrated; male | female; normal_left | normal_right
no_1 | no_2; NSCLC | SCLC; nodule | opacity; nevus | melanoma; early | late; typical | atypical
gram_negative | gram_positive; node | nocardia; N | T; universal | local; negligible | large
control | healthy; interstitial | indirect; NORMOCYTE | macrocyte; MSI | MSS; neuroma | glioma
hippocampal_sclerosis | mTLE
""")


@pytest.mark.parametrize(("finding", "none"), FINDING)
def test_a2_the_finding_is_told_by_words(finding, none):
    assert propose_positive([finding, none]) == propose_positive([none, finding]) == finding


@pytest.mark.parametrize(("one", "other"), UNDECIDED)
def test_a2_no_guess_where_no_word_decides(one, other):
    assert propose_positive([one, other]) is propose_positive([other, one]) is None


@pytest.mark.parametrize(
    ("classes", "normal"),
    [
        (["glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor"], "no_tumor"),
        (["glioma", "meningioma", "notumor", "pituitary"], "notumor"),
        (["adenocarcinoma", "large.cell.carcinoma", "normal", "squamous"], "normal"),
        (["COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"], "Normal"),
        (["benign", "malignant", "normal"], "normal"),
        (["nodule", "normal", "opacity"], "normal"),
        (["CN", "MCI", "AD"], None),
        (["No_DR", "Mild", "Moderate", "Severe", "Proliferate_DR"], "No_DR"),
        (["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"], None),
        (["0", "1", "2", "3", "4"], None),
        (["benign", "insitu", "invasive"], None),
        (["normal_a", "normal_b", "tumor"], None),
        (["NonDemented", "MildDemented", "ModerateDemented"], "NonDemented"),
        (["non small cell", "small cell", "other"], None),
        (["Kein Befund", "Infiltrat", "Erguss"], "Kein Befund"),
    ],
)
def test_a2_the_class_without_a_finding_among_more(classes, normal):
    assert propose_normal(classes) == normal
    assert propose_positive(classes) is None


def test_a2_two_classes_without_a_finding_are_refused():
    with pytest.raises(DataError, match=r"say which class is the finding.*positive: covid"):
        check_finding(DataRecipe(), ["covid", "normal"])
    with pytest.raises(DataError, match="positive: A or B"):
        check_finding(DataRecipe(), ["A", "B"])
    with pytest.raises(DataError, match="positive: B"):
        check_finding(DataRecipe(normal="A"), ["A", "B"])
    check_finding(DataRecipe(positive="covid"), ["covid", "normal"])
    check_finding(DataRecipe(), ["a", "b", "c"])


@pytest.mark.parametrize("key", ["positive", "normal"])
def test_a2_the_finding_is_one_of_the_classes(key):
    with pytest.raises(DataError, match=f"'data.{key}' to be one of a, b"):
        check_finding(DataRecipe(**{"positive": "a", key: "c"}), ["a", "b"])
    with pytest.raises(DataError, match="in a study of two classes"):
        check_finding(DataRecipe(positive="a"), ["a", "b", "c"])


def test_a2_a_study_file_that_contradicts_itself_is_refused():
    for data in ({"positive": "a", "normal": "a"}, {"classes": ["a", "b"], "positive": "c"}):
        with pytest.raises(RecipeError, match="'data'"):
            parse_study({"name": "x", "reference": {"model": "resnet18"}, "data": data})


GRADED = [
    ["No_DR", "Mild", "Moderate", "Severe", "Proliferate_DR"],
    ["none", "mild", "moderate", "severe"],
    ["Normal", "Doubtful", "Mild", "Moderate", "Severe"],
    ["low", "medium", "high"],
    ["grade 0", "grade 1", "grade 2", "grade 3"],
    ["KL-0", "KL-1", "KL-2", "KL-3", "KL-4"],
    ["Stage I", "Stage II", "Stage III", "Stage IV"],
    ["G1", "G2", "G3"],
    ["score_1", "score_2", "score_3"],
]


@pytest.mark.parametrize("names", GRADED, ids=" ".join)
def test_grades_are_seen_in_any_order_of_listing(names):
    for listed in (names, names[::-1], sorted(names)):
        assert propose_order(listed) == (tuple(names), True)


def test_bare_numbers_may_be_codes():
    twelve = [str(n) for n in range(1, 13)]
    assert propose_order(sorted(twelve)) == (tuple(twelve), False)


@pytest.mark.parametrize(
    "names",
    [
        ["glioma", "meningioma", "none"],
        ["mild", "severe"],
        ["mild", "moderate", "mild moderate"],
        ["1", "2", "4"],
        ["a1", "b2", "c3"],
        ["Mild", "Moderate", "Severe", "cyst"],
    ],
    ids=" ".join,
)
def test_what_has_no_order_has_none(names):
    assert propose_order(names) == ((), False)
