"""Which class is the finding, and which is none: by words where a word decides, else a person's.

In a set of two classes the figures called sensitivity and specificity hang on it. "normal",
"healthy", "benign", "negative", "control" and their like in other languages are never the finding,
nor is what is named as the absence of something ("no_tumor", "CT_NonCOVID", "ohne Befund").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from clinipress.errors import DataError
from clinipress.recipe.study import DataRecipe

__all__ = ["check_finding", "propose_normal", "propose_order", "propose_positive", "words_of"]

# Beginnings of words: they are inflected ("normale", "gesundes", "zdrowych").
_NONE_STEMS = """
normal norma health gesund sain sano sana sani saudav sadi gezond frisk zdrow zdrav terve egeszseg
sanatos saglikl benign benin gutartig goedaardig godart lagodn negativ negatif negatief negatyw
control ctrl kontrol unremarkable unauffall unauffaell befundlos clear absen ausent assent uninfect
unaffect undiseased
норм здоров доброкач отриц негатив контрол
"""
_NOT = """
no non not none nil without ohne kein keine keinen keiner nicht sans pas aucun aucune sin senza
nessun nessuna sem nao zonder geen niet bez brak nie uten uden utan ingen inget ikke inte ej
nincs nem fara ei yok без нет
"""
# Where these words are a part of the finding's own name, they say nothing.
DOTLESS_I = "\u0131"
_OTHERWISE = re.compile(
    r"clear cell|non ?small ?cell|non ?hodgkin|non ?seminoma|non ?keratini|non ?alcoholic|"
    r"non ?ossifying|non ?specific|triple negative|gram negative|normal pressure|"
    r"no \d|controlled|negative pressure"
)
_FINDINGS = """
tumor tumour covid finding findings disease diseased cancer lesion lesions infection infected dr dme
amd pneumonia fracture stroke bleed bleeding hemorrhage haemorrhage defect polyp glaucoma cataract
effusion melanoma malignant referable carcinoma abnormal abnormality edema oedema pathology ild
"""
_BENIGN = ("benign", "benin", "gutartig", "goedaard", "godart", "lagodn", "доброкач")
_STEMS = tuple(sorted(set(_NONE_STEMS.split())))
_NEGATIONS = frozenset(_NOT.split())
_NAMES = frozenset(_FINDINGS.split())
_PREFIXES = ("non", "no", "not", "un")
# Words that say how grave something is, the least first; a class bears words of one line.
_GRADES = tuple(
    frozenset(words.split())
    for words in (
        "no none normal healthy absent not nodr",
        "doubtful questionable minimal trace suspicious",
        "mild slight light low early",
        "moderate medium intermediate",
        "severe marked strong high advanced late",
        "proliferative proliferate pdr critical extreme profound",
    )
)
# What stands before a number that is a grade; a bare number may be a code as well.
_SCALES = """
grade grad stage stadium level score kl birads rads pirads lirads tirads isup gleason severity who g
"""
_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6}
# Names that say none as a whole, and letters that do so beside another.
_NONE = frozenset(
    ("0", "no", "false", "nein", "non", "nee", "nej", "nie", "neg", "ctl", "none", "nil", "nothing")
)
_LETTERS = {"n": "y", "f": "t"}


def words_of(name: str) -> list[str]:
    """Words of a name without case and accents, "CT_NonCOVID" as ct, non, covid.

    Example:
        >>> words_of("CT_NonCOVID"), words_of("Mélanome-bénin2")
        (['ct', 'non', 'covid'], ['melanome', 'benin', '2'])
    """
    plain = unicodedata.normalize("NFKD", name)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    plain = plain.replace(DOTLESS_I, "i")
    parts = re.sub(r"(?<=[A-Z])(?=[A-Z][a-z])", " ", plain)
    after = zip(parts, parts[1:] + " ", strict=True)
    plain = "".join(f"{a} " if a.islower() and b.isupper() else a for a, b in after)
    return re.findall(r"[^\W\d_]+|\d+", plain.casefold())


def propose_positive(classes: Sequence[str]) -> str | None:
    """The finding of two classes where a word says that the other is none; else None."""
    if len(classes) != 2:
        return None
    none = [_is_none(name, other) for name, other in (classes, classes[::-1])]
    if none[0] == none[1]:
        return None
    return classes[none.index(False)]


def propose_normal(classes: Sequence[str]) -> str | None:
    """The one class of three or more that is named as none; "benign" is a finding there."""
    if len(classes) < 3:
        return None
    joint = " ".join(classes)
    none = [
        name
        for name in classes
        if _is_none(name, joint.replace(name, ""))
        and not name.strip().isdigit()
        and not any(word.startswith(_BENIGN) for word in words_of(name))
    ]
    return none[0] if len(none) == 1 else None


def propose_order(classes: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """The classes from the least to the gravest grade, where their names say so.

    Args:
        classes: Their names, in any order.

    Returns:
        All of them in order, and whether that is sure: words such as mild and severe, or numbers
        behind a scale ("stage II") are; bare numbers in a row may be codes. Nothing for names that
        have no order.

    Example:
        >>> propose_order(["Mild", "Moderate", "No_DR", "Proliferate_DR", "Severe"])
        (('No_DR', 'Mild', 'Moderate', 'Severe', 'Proliferate_DR'), True)
        >>> propose_order(["0", "1", "2"]), propose_order(["glioma", "none", "meningioma"])
        ((('0', '1', '2'), False), ((), False))
    """
    if len(classes) < 3:
        return (), False
    ranks = [[n for n, line in enumerate(_GRADES) if line & {*words_of(c)}] for c in classes]
    if all(len(rank) == 1 for rank in ranks) and len({rank[0] for rank in ranks}) == len(classes):
        return tuple(name for _, name in sorted(zip(ranks, classes, strict=True))), True
    parts = [_numbered(name) for name in classes]
    numbers = sorted(number for number, _ in parts)
    in_a_row = numbers in ([*range(len(parts))], [*range(1, len(parts) + 1)])
    around = {words for _, words in parts}
    if not in_a_row or len(around) > 1:
        return (), False
    ordered = tuple(name for _, name in sorted(zip([n for n, _ in parts], classes, strict=True)))
    return ordered, bool(set(_SCALES.split()) & set(around.pop()))


def _numbered(name: str) -> tuple[int, tuple[str, ...]]:
    """The one number of a name, arabic or roman, -1 for none or several; the words around it."""
    words = words_of(re.sub(r"(?<=[0-9])\.0+$", "", name.strip()))  # a table's "2.0" is 2
    digits = [word for word in words if word.isdigit()]
    roman = [word for word in words[-1:] if word in _ROMAN and not digits]
    if len(digits) + len(roman) != 1:
        return -1, ()
    value = int(digits[0]) if digits else _ROMAN[roman[0]]
    return value, tuple(word for word in words if word not in (*digits, *roman))


def _is_none(name: str, others: str) -> bool:
    """Whether a name says that there is no finding; `others` are the names beside it."""
    words, theirs = words_of(name), words_of(others)
    if _OTHERWISE.search(" ".join(words)):
        return False
    whole, beside = name.strip().casefold(), others.strip().casefold()
    if whole in _NONE or whole in _LETTERS:
        return beside == _LETTERS[whole] if whole in _LETTERS else beside not in _NONE
    minus = name.rstrip().endswith("-") and others.rstrip().endswith("+")
    zero = words[-1:] == ["0"] and theirs[-1:] != ["0"] and words[:-1] == theirs[:-1]
    return minus or zero or _says_none(words, theirs)


def _says_none(words: Sequence[str], theirs: Sequence[str]) -> bool:
    known = _NAMES | {*theirs, "".join(theirs)}
    for number, word in enumerate(words):
        negated = number > 0 and words[number - 1] in _NEGATIONS
        if word in _NEGATIONS and number + 1 < len(words):
            after = words[number + 1]
            if not after.startswith(_STEMS) and after not in _NEGATIONS:
                return True
        elif (word in _NEGATIONS and number) or (word.startswith(_STEMS) and not negated):
            return True  # "covid_no", "normal"
        else:
            bare = {word.removeprefix(p) for p in _PREFIXES if word.startswith(p)}
            if any(rest in known and not rest.startswith(_STEMS) for rest in bare):
                return True  # "noncovid" beside "covid"
    return False


def check_finding(recipe: DataRecipe, classes: Sequence[str]) -> None:
    """What a study names as the finding must be one, and two classes need one.

    Raises:
        DataError: It is not, or is not named.
    """
    if recipe.task == "multilabel":  # each is one
        return
    for key, name in (("positive", recipe.positive), ("normal", recipe.normal)):
        if name is not None and name not in classes:
            raise DataError(f"'data.{key}' to be one of {', '.join(classes)}", f"'{name}'")
    if len(classes) > 2 and recipe.positive is not None:
        raise DataError(
            "'data.positive' in a study of two classes",
            f"{len(classes)} classes",
            "name the class without a finding as 'data.normal' instead, or leave it out",
        )
    if len(classes) == 2 and recipe.positive is None:
        other = next((name for name in classes if name != recipe.normal), "")
        likely = (recipe.normal and other) or propose_positive(classes)
        such = f"{likely}" if likely else f"{classes[0]} or {classes[1]}"
        raise DataError(
            "'data.positive' in a study of two classes",
            f"none for {classes[0]} and {classes[1]}",
            f"say which class is the finding: sensitivity is its, for example positive: {such}",
        )
