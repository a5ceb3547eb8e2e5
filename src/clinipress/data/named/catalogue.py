"""Public data sets by name: counts, licence, known defects, citation, and where to get them.

Data only. Counts are those of the published files, per class and split where those are published.
`clinipress.data.named.prepare` compares a folder with them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from clinipress.data.named import medmnist
from clinipress.data.named.fetch import Download
from clinipress.data.named.sets import ALL_SPLITS, Count, NamedSet
from clinipress.errors import DataError

__all__ = ["SETS", "find_set"]

_WITH_PIXELS = re.compile(r"(?P<name>.+mnist)-(?P<pixels>[0-9]+)")


def _by_split(
    splits: Mapping[str, tuple[str, Mapping[str, int]]], folders: Mapping[str, str]
) -> tuple[dict[str, Mapping[str, Count]], dict[str, tuple[str | None, str]]]:
    """Counts, and patterns of SPLIT/CLASS: split -> (its folder, counts); class -> its pattern."""
    counts: dict[str, Mapping[str, Count]] = {split: dict(n) for split, (_, n) in splits.items()}
    patterns: dict[str, tuple[str | None, str]] = {
        f"{folder}/{pattern}": (split, label)
        for split, (folder, _) in splits.items()
        for label, pattern in folders.items()
    }
    return counts, patterns


_CHEST = ("adenocarcinoma", "large.cell.carcinoma", "normal", "squamous.cell.carcinoma")
# train and valid have the stage in their names ("..._left.lower.lobe_T2_N0_M0_Ib"), test has not
_CHEST_COUNTS, _CHEST_FOLDERS = _by_split(
    {
        "train": ("train", dict(zip(_CHEST, (195, 115, 148, 155), strict=True))),
        "validation": ("valid", dict(zip(_CHEST, (23, 21, 13, 15), strict=True))),
        "test": ("test", dict(zip(_CHEST, (120, 51, 54, 90), strict=True))),
    },
    {name: f"{name}*" for name in _CHEST},
)
_BHUVAJI = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")
_BHUVAJI_COUNTS, _BHUVAJI_FOLDERS = _by_split(
    {
        "train": ("training", dict(zip(_BHUVAJI, (826, 822, 395, 827), strict=True))),
        "test": ("testing", dict(zip(_BHUVAJI, (100, 115, 105, 74), strict=True))),
    },
    {name: name for name in _BHUVAJI},
)
_NICKPARVAR = ("glioma", "meningioma", "notumor", "pituitary")
_NICKPARVAR_COUNTS, _NICKPARVAR_FOLDERS = _by_split(
    {
        "train": ("training", dict(zip(_NICKPARVAR, (1321, 1339, 1595, 1457), strict=True))),
        "test": ("testing", dict(zip(_NICKPARVAR, (300, 306, 405, 300), strict=True))),
    },
    {name: name for name in _NICKPARVAR},
)
_QU_EX = ("COVID-19", "Non-COVID", "Normal")
_QU_EX_FOLDERS: dict[str, tuple[str | None, str]] = {
    f"lung segmentation data/{folder}/{label.casefold()}/images": (split, label)
    for folder, split in (("train", "train"), ("val", "validation"), ("test", "test"))
    for label in _QU_EX
}
_LC25000 = ("colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc")
_GROUPS = "lc25000_image_groups.csv"
_CHENG = "https://ndownloader.figshare.com/files"
_DATAVERSE = "https://dataverse.harvard.edu/api/access/datafile"
_UCSD = "https://github.com/UCSD-AI4H/COVID-CT/raw/master"

_OWN_SETS: tuple[NamedSet, ...] = (
    NamedSet(
        name="chest-ctscan-images",
        aliases=("chest-ctscan",),
        title="Chest CT-Scan images Dataset",
        adapter="folders",
        page="https://www.kaggle.com/datasets/mohamedhanyyy/chest-ctscan-images",
        layout="Data/{train,valid,test}/CLASS; long class names in train and valid, short in test",
        counts=_CHEST_COUNTS,
        folders=_CHEST_FOLDERS,
        licence="reported CC0 by a mirror; check the page before any use but research",
        citation="M. Hany, Chest CT-Scan images Dataset, Kaggle: mohamedhanyyy/chest-ctscan-images",
        defects=(
            "1,000 images of three lung cancers and normal, not balanced, no COVID-19: a paper that"
            " cites it for '1,252 balanced' COVID images used another set",
            "no patients; put together from sources that are not named, several slices per case",
            "at least 153 surplus exact copies, 46 of 259 test images also in train (944 images)",
            "the spread of the grey values alone tells normal from cancer (AUC 0.98)",
        ),
        kaggle="mohamedhanyyy/chest-ctscan-images",
    ),
    NamedSet(
        name="sars-cov-2-ct",
        aliases=("sarscov2-ctscan-dataset",),
        title="SARS-COV-2 Ct-Scan Dataset",
        adapter="folders",
        page="https://www.kaggle.com/datasets/plameneduardo/sarscov2-ctscan-dataset",
        layout="COVID/ and non-COVID/",
        counts={ALL_SPLITS: {"COVID": 1252, "non-COVID": (1229, 1230)}},
        folders={"covid": (None, "COVID"), "non-covid": (None, "non-COVID")},
        licence="CC BY-NC-SA 4.0 (two independent listings)",
        citation=(
            "E. Soares, P. Angelov, S. Biaso, M. Higa Froes, D. Kanda Abe, SARS-CoV-2 CT-scan"
            " dataset, medRxiv 2020.04.24.20078584"
        ),
        defects=(
            "the paper says 1,230 non-COVID images, the files are 1,229",
            "no patients though there are several images of one; no split of its own:"
            " near-duplicate clusters are the least that must be kept whole",
        ),
        kaggle="plameneduardo/sarscov2-ctscan-dataset",
    ),
    NamedSet(
        name="covid-ct",
        aliases=("ucsd-covid-ct",),
        title="COVID-CT (UCSD)",
        adapter="covid-ct",
        page="https://github.com/UCSD-AI4H/COVID-CT",
        layout=(
            "CT_COVID/, CT_NonCOVID/, Data-split/{COVID,NonCOVID}/*.txt and COVID-CT-MetaInfo.xlsx,"
            " or these folders with a manifest.csv"
        ),
        counts={
            "train": {"CT_COVID": 191, "CT_NonCOVID": 234},
            "validation": {"CT_COVID": 60, "CT_NonCOVID": 58},
            "test": {"CT_COVID": 98, "CT_NonCOVID": 105},
        },
        licence="none given: figures of papers, whose authors and publishers keep the rights",
        citation=(
            "J. Zhao, Y. Zhang, X. He, P. Xie, COVID-CT-Dataset: a CT scan dataset about COVID-19,"
            " arXiv 2003.13865"
        ),
        defects=(
            "figures cut from papers (COVID) beside crawled and MedPix images (NonCOVID): where a"
            " picture comes from tells its class; the number of colour channels alone has AUC 0.73",
        ),
        unit="patient",
        files=(
            Download("CT_COVID.zip", f"{_UCSD}/Images-processed/CT_COVID.zip"),
            Download("CT_NonCOVID.zip", f"{_UCSD}/Images-processed/CT_NonCOVID.zip"),
            Download("COVID-CT-MetaInfo.xlsx", f"{_UCSD}/COVID-CT-MetaInfo.xlsx"),
            *(
                Download(f"{part}CT_{kind}.txt", f"{_UCSD}/Data-split/{kind}/{part}CT_{kind}.txt")
                for kind in ("COVID", "NonCOVID")
                for part in ("train", "val", "test")
            ),
        ),
    ),
    NamedSet(
        name="brain-mri",
        aliases=("bhuvaji", "brain-tumor-classification-mri"),
        title="Brain Tumor Classification (MRI), Bhuvaji et al.",
        adapter="folders",
        page="https://www.kaggle.com/datasets/sartajbhuvaji/brain-tumor-classification-mri",
        layout="{Training,Testing}/{glioma,meningioma,no,pituitary}_tumor",
        counts=_BHUVAJI_COUNTS,
        folders=_BHUVAJI_FOLDERS,
        licence="no licence file; one public repository calls redistribution restricted",
        citation=(
            "S. Bhuvaji, A. Kadam, P. Bhumkar, S. Dedge, S. Kanchan, Brain Tumor Classification"
            " (MRI), Kaggle 2020, DOI 10.34740/KAGGLE/DSV/1183165"
        ),
        defects=(
            "259 of the 394 Testing images are also in Training (no_tumor 105 of 105), two of them"
            " under another label: never a test set by itself; divide by near-duplicate cluster",
            "gliomas are widely reported to be mislabelled; no patients; three views mixed",
            "the width of an image alone tells no_tumor (AUC 0.83)",
        ),
        # the whole hash is not known to us; the short one names one commit all the same
        files=(
            Download(
                "Brain-Tumor-Classification-DataSet.zip",
                "https://github.com/SartajBhuvaji/Brain-Tumor-Classification-DataSet/archive/"
                "3ea9f4e.zip",
            ),
        ),
        kaggle="sartajbhuvaji/brain-tumor-classification-mri",
    ),
    NamedSet(
        name="nickparvar",
        aliases=("brain-tumor-mri-dataset",),
        title="Brain Tumor MRI Dataset, Nickparvar",
        adapter="folders",
        page="https://www.kaggle.com/datasets/masoudnickparvar/brain-tumor-mri-dataset",
        layout="{Training,Testing}/{glioma,meningioma,notumor,pituitary}",
        counts=_NICKPARVAR_COUNTS,
        folders=_NICKPARVAR_FOLDERS,
        licence="reported CC0; check the page",
        citation="M. Nickparvar, Brain Tumor MRI Dataset, Kaggle: masoudnickparvar",
        defects=(
            "figshare 1512427, Bhuvaji's set and Br35H in one: not external to any of them",
            "notumor comes from Br35H alone, so source tells label",
            "no patients, though 233 are known for the slices that come from figshare",
        ),
        kaggle="masoudnickparvar/brain-tumor-mri-dataset",
    ),
    NamedSet(
        name="figshare-brain",
        aliases=("figshare-1512427", "cheng"),
        title="brain tumor dataset, Cheng (figshare 1512427)",
        adapter="figshare",
        page="https://figshare.com/articles/dataset/brain_tumor_dataset/1512427",
        layout="1.mat to 3064.mat (MATLAB v7.3, cjdata) in any folders",
        counts={ALL_SPLITS: {"glioma": 1426, "meningioma": 708, "pituitary": 930}},
        licence="CC BY 4.0",
        citation=(
            "J. Cheng, brain tumor dataset, figshare 2017, DOI 10.6084/m9.figshare.1512427;"
            " J. Cheng et al., PLoS ONE 10(10) e0140381, 2015"
        ),
        defects=("no normal class; two hospitals, which the files do not tell apart",),
        unit="patient",
        units=233,
        files=(
            Download(
                "brainTumorDataPublic_1-766.zip",
                f"{_CHENG}/3381290",
                "cdac0a7f4152cb34dd79b13543da96c37a6928ad8cb823e2662150b1a73ade54",
                size=214_401_279,
            ),
            Download(
                "brainTumorDataPublic_767-1532.zip",
                f"{_CHENG}/3381296",
                "d18e896d14f7af791cdd3d9b9342f9f974742a06132effde5a5219209862b4ce",
                size=217_848_429,
            ),
            Download(
                "brainTumorDataPublic_1533-2298.zip",
                f"{_CHENG}/3381293",
                "612d9f506c55c54db5f2f38b6d50741ef97a6d7c32b3e1be76e789674a97aefb",
                size=215_563_856,
            ),
            Download(
                "brainTumorDataPublic_2299-3064.zip",
                f"{_CHENG}/3381302",
                "9a673c55d139133cfbc57097bf155b5ac9f33684ee97f40bf2afba332d416a3a",
                size=231_679_762,
            ),
        ),
    ),
    NamedSet(
        name="covid-qu-ex",
        aliases=("covidqu",),
        title="COVID-QU-Ex Dataset",
        adapter="covid-qu-ex",
        page="https://www.kaggle.com/datasets/anasmohammedtahir/covidqu",
        layout=(
            "Lung Segmentation Data/Lung Segmentation Data/{Train,Val,Test}/{COVID-19,Non-COVID,"
            "Normal}/{images,lung masks}, and the same under Infection Segmentation Data with"
            " infection masks; the doubled names are real"
        ),
        counts={ALL_SPLITS: {"COVID-19": 11_956, "Non-COVID": 11_263, "Normal": 10_701}},
        folders=_QU_EX_FOLDERS,
        licence="CC BY-SA 4.0 (reported November 2025)",
        citation=(
            "A. M. Tahir et al., COVID-19 infection localization and severity grading from chest"
            " X-ray images, Comput. Biol. Med. 139, 2021; Kaggle, DOI 10.34740/kaggle/dsv/3122958"
        ),
        defects=(
            "each class comes from other repositories (normal and Non-COVID from RSNA, Kermany's"
            " children and PadChest): source tells label, the pattern of DeGrave et al. 2021;"
            " compare saliency with the masks",
            "no patients; its COVID-19 images are in other public sets too",
            "the sizes of its splits are not published: only the classes are compared",
        ),
        kaggle="anasmohammedtahir/covidqu/versions/7",
        archive_sha256="2a91b372cdd104d05d472f79dc446dc9bb7e3ccc26f513cf971f64cabc151333",
    ),
    NamedSet(
        name="lc25000",
        title="LC25000, with the groups of LC25000-clean",
        adapter="lc25000",
        page="https://github.com/tampapath/lung_colon_image_set",
        layout=(
            "lung_colon_image_set/{colon_image_sets/{colon_aca,colon_n},lung_image_sets/{lung_aca,"
            f"lung_n,lung_scc}}}}, and {_GROUPS} anywhere beside it"
        ),
        counts={ALL_SPLITS: dict.fromkeys(_LC25000, 5000)},
        folders={name: (None, name) for name in _LC25000},
        licence="images: unlicense or CC BY-SA 4.0, as copies report; groups: CC BY 4.0",
        citation=(
            "A. A. Borkowski et al., LC25000, arXiv 1912.12142; groups: G. Batchkala, B. Li,"
            " J. Rittscher, DEMI at MICCAI 2024, DOI 10.1007/978-3-031-73748-0_2"
        ),
        defects=(
            "25,000 rotations and flips of 1,250 tiles: divided at random, about 99 % of the images"
            " have a sibling on the other side; what is kept whole here is each image's tile",
            "tiles are not patients, and no patients are known",
            "colour alone nearly solves it (a histogram has 91 %): test on images from elsewhere",
        ),
        unit="tile",
        units=1246,
        files=(
            Download(
                _GROUPS,
                "https://raw.githubusercontent.com/GeorgeBatch/LC25000-clean/"
                f"912f342fe2a781e847f395d79982dad4d3d425ae/kaggle/{_GROUPS}",
            ),
        ),
        kaggle="andrewmvd/lung-and-colon-cancer-histopathological-images",
    ),
    NamedSet(
        name="ham10000",
        title="HAM10000",
        adapter="ham10000",
        page="https://doi.org/10.7910/DVN/DBW86T",
        layout="HAM10000_metadata.csv and ISIC_*.jpg in one folder or several beside it",
        counts={
            ALL_SPLITS: {
                "akiec": 327,
                "bcc": 514,
                "bkl": 1099,
                "df": 115,
                "mel": 1113,
                "nv": 6705,
                "vasc": 142,
            }
        },
        licence="CC BY-NC 4.0 (the publisher's page; some copies say CC BY-NC-SA)",
        citation=(
            "P. Tschandl, C. Rosendahl, H. Kittler, The HAM10000 dataset, Sci. Data 5, 180161, 2018"
        ),
        defects=(
            "10,015 images of 7,470 lesions: lesions are kept whole; patients are not named",
            "mostly fair skin; about half of the lesions have no histology (dx_type)",
        ),
        unit="lesion",
        units=7470,
        files=(
            Download(
                "HAM10000_images_part_1.zip",
                f"{_DATAVERSE}/3172585",
                md5="4639bfa73ab251610530a97c898e6e46",
            ),
            Download(
                "HAM10000_images_part_2.zip",
                f"{_DATAVERSE}/3172584",
                md5="da43d6cc50f6613013be07e8986b384b",
            ),
            Download(
                "HAM10000_metadata.csv",
                f"{_DATAVERSE}/4338392?format=original",
                md5="8f85fb1aa29d80a2797247e434deb79d",
            ),
        ),
    ),
)


def _of_medmnist(subset: medmnist.Subset, pixels: int) -> NamedSet:
    file = subset.download(pixels)
    name = file.name.removesuffix(".npz").replace("_", "-")
    return NamedSet(
        name=name,
        title=f"MedMNIST: {subset.name}, {pixels} pixels",
        adapter="medmnist",
        page="https://medmnist.com",
        layout=file.name,
        counts={split: {ALL_SPLITS: n} for split, n in subset.images.items()},
        licence=subset.licence,
        citation=medmnist.CITATION,
        defects=subset.defects,
        labels=subset.labels,
        files=(file,),
    )


SETS: tuple[NamedSet, ...] = (
    *_OWN_SETS,
    *(_of_medmnist(subset, medmnist.PIXELS[0]) for subset in medmnist.SUBSETS),
)


def find_set(name: str) -> NamedSet:
    """A set by its name or another one it has, in any case; "pathmnist-224" has 224 pixels a side.

    Raises:
        DataError: No such set.
    """
    wanted = name.casefold().replace("_", "-").replace(" ", "-")
    for named_set in SETS:
        if wanted in (named_set.name, *named_set.aliases):
            return named_set
    if sized := _WITH_PIXELS.fullmatch(wanted):
        subset = {each.name: each for each in medmnist.SUBSETS}.get(sized["name"])
        pixels = int(sized["pixels"])
        if subset is not None and pixels in medmnist.PIXELS:
            return _of_medmnist(subset, pixels)
    names = ", ".join(named_set.name for named_set in SETS)
    raise DataError(f"one of {names}", f"'{name}'", medmnist.LEFT_OUT.get(wanted))
