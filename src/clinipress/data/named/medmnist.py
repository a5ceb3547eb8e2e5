"""MedMNIST's two-dimensional sets with one label per image: sizes, class names, checksums.

The facts are those of the medmnist package 3.0.2 (Apache-2.0), which needs torch and more to be
installed; its files are on Zenodo, so that neither is needed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clinipress.data.named.fetch import Download

__all__ = ["CHEST", "CHEST_IMAGES", "CITATION", "LEFT_OUT", "PIXELS", "SUBSETS", "Subset"]

CITATION = (
    "J. Yang et al., MedMNIST v2, Sci. Data 10, 41, 2023, DOI 10.1038/s41597-022-01721-8;"
    " and the source of the set, which the page names"
)
PIXELS = (28, 64, 128, 224)
LEFT_OUT: Mapping[str, str] = {
    "chestmnist": "its images show several findings: give its .npz as it is, as 'data.path'",
    "medmnist": "name one of its sets",
}
"""Names that people may try, and why there is no such set here."""
_RECORD = "https://zenodo.org/records/10519652/files"


CHEST = (
    *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia"),
    *("pneumothorax", "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
)
"""The findings of chestmnist's columns."""
CHEST_IMAGES: Mapping[str, int] = {"train": 78468, "val": 11219, "test": 22433}


@dataclass(frozen=True)
class Subset:
    """One set of MedMNIST.

    Attributes:
        name: As its file is called.
        images: Split -> images.
        labels: Names of the classes, by number.
        md5: Of its files with 28, 64, 128 and 224 pixels; the source says no sha256.
        licence: As the package says.
        defects: What must be known before a figure on it is believed.
    """

    name: str
    images: Mapping[str, int]
    labels: tuple[str, ...]
    md5: tuple[str, str, str, str]
    licence: str = "CC BY 4.0"
    defects: tuple[str, ...] = ()

    def file_name(self, pixels: int) -> str:
        """Of the file with that many pixels a side."""
        return f"{self.name}.npz" if pixels == PIXELS[0] else f"{self.name}_{pixels}.npz"

    def download(self, pixels: int) -> Download:
        """The file with that many pixels a side."""
        name = self.file_name(pixels)
        return Download(name, f"{_RECORD}/{name}?download=1", md5=self.md5[PIXELS.index(pixels)])


_SMALL = "made of larger pictures for quick comparisons, not for clinical use, as its authors say"
_ORGANS = (
    "slices of the same CT volumes (LiTS) as the other two Organ sets: not external to them",
    "no patients in the file; the published split keeps volumes whole",
)

_ORGAN_LABELS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver"),
    *("lung-left", "lung-right", "pancreas", "spleen"),
)
SUBSETS: tuple[Subset, ...] = (
    Subset(
        "pathmnist",
        {"train": 89996, "validation": 10004, "test": 7180},
        (
            "adipose",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
        (
            "a8b06965200029087d5bd730944a56c1",
            "55aa9c1e0525abe5a6b9d8343a507616",
            "ac42d08fb904d92c244187169d1fd1d9",
            "2c51a510bcdc9cf8ddb2af93af1eadec",
        ),
        defects=(
            "train and validation are patches of the same slides; only test is another centre",
            _SMALL,
        ),
    ),
    Subset(
        "dermamnist",
        {"train": 7007, "validation": 1003, "test": 2005},
        (
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
        (
            "0744692d530f8e62ec473284d019b0c7",
            "b70a2f5635c6199aeaa28c31d7202e1f",
            "2defd784463fa5243564e855ed717de1",
            "8974907d8e169bef5f5b96bc506ae45d",
        ),
        licence="CC BY-NC 4.0",
        defects=("HAM10000 divided by image: lesions with several images cross its splits", _SMALL),
    ),
    Subset(
        "octmnist",
        {"train": 97477, "validation": 10832, "test": 1000},
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        (
            "c68d92d5b585d8d81f7112f81e2d0842",
            "e229e9440236b774d9f0dfef9d07bdaf",
            "0a97e76651ace45c5d943ee3f65b63ae",
            "abc493b6d529d5de7569faaef2773ba3",
        ),
        defects=(
            "test is balanced and small (1,000), train is not: its prevalence is not that of train",
            _SMALL,
        ),
    ),
    Subset(
        "pneumoniamnist",
        {"train": 4708, "validation": 524, "test": 624},
        ("normal", "pneumonia"),
        (
            "28209eda62fecd6e6a2d98b1501bb15f",
            "8f4eceb4ccffa70c672198ea285246c6",
            "05b46931834c231683c68f40c47b2971",
            "d6a3c71de1b945ea11211b03746c1fe1",
        ),
        defects=(_SMALL,),
    ),
    Subset(
        "retinamnist",
        {"train": 1080, "validation": 120, "test": 400},
        ("grade 0", "grade 1", "grade 2", "grade 3", "grade 4"),
        (
            "bd4c0672f1bba3e3a89f0e4e876791e4",
            "afda852cc34dcda56f86ad2b2457dbcc",
            "e48e916a24454daf90583d4e6efb1a18",
            "eae7e3b6f3fcbda4ae613ebdcbe35348",
        ),
        defects=("grades 0 to 4 are ordered, which accuracy does not count", _SMALL),
    ),
    Subset(
        "breastmnist",
        {"train": 546, "validation": 78, "test": 156},
        ("malignant", "normal, benign"),
        (
            "750601b1f35ba3300ea97c75c52ff8f6",
            "742edef2a1fd1524b2efff4bd7ba9364",
            "363e4b3f8d712e9b5de15470a2aaadf1",
            "b56378a6eefa9fed602bb16d192d4c8b",
        ),
        defects=(
            "780 images of BUSI divided by image, patients unknown: several may cross its splits",
            _SMALL,
        ),
    ),
    Subset(
        "bloodmnist",
        {"train": 11959, "validation": 1712, "test": 3421},
        (
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
        (
            "7053d0359d879ad8a5505303e11de1dc",
            "2b94928a2ae4916078ca51e05b6b800b",
            "adace1e0ed228fccda1f39692059dd4c",
            "b718ff6835fcbdb22ba9eacccd7b2601",
        ),
        defects=(_SMALL,),
    ),
    Subset(
        "tissuemnist",
        {"train": 165466, "validation": 23640, "test": 47280},
        (
            "Collecting Duct, Connecting Tubule",
            "Distal Convoluted Tubule",
            "Glomerular endothelial cells",
            "Interstitial endothelial cells",
            "Leukocytes",
            "Podocytes",
            "Proximal Tubule Segments",
            "Thick Ascending Limb",
        ),
        (
            "ebe78ee8b05294063de985d821c1c34b",
            "123ece2eba09d0aa5d698fda57103344",
            "61b955355d7425a89687b06cca3ce0c2",
            "b077128c4a949f0a4eb01517f9037b9c",
        ),
        defects=(_SMALL,),
    ),
    Subset(
        "organamnist",
        {"train": 34561, "validation": 6491, "test": 17778},
        _ORGAN_LABELS,
        (
            "68e3f8846a6bd62f0c9bf841c0d9eacc",
            "2dcccc29b88e6da5a01161ef20cda288",
            "eeae80d0a227a8d099027e1b3cfd3b60",
            "50747347e05c87dd3aaf92c49f9f3170",
        ),
        defects=(*_ORGANS, _SMALL),
    ),
    Subset(
        "organcmnist",
        {"train": 12975, "validation": 2392, "test": 8216},
        _ORGAN_LABELS,
        (
            "b9ceb9546e10131b32923c5bbeaea2b1",
            "3ce34a8724ea6f548e6db4744d03b6a9",
            "773c1f009daa3fe5d9a2a201b2a7ed94",
            "050f5e875dc056f6768abf94ec9995d1",
        ),
        defects=(*_ORGANS, _SMALL),
    ),
    Subset(
        "organsmnist",
        {"train": 13932, "validation": 2452, "test": 8827},
        _ORGAN_LABELS,
        (
            "9ab87b696fb54e2a387ebe992d6ed5f1",
            "53a6d115339d874c25e309a994ff46d3",
            "ded0c5fa01a95dc4978b956f613e9b8e",
            "b354719e553fbbb2513d5533f52a4cb1",
        ),
        defects=(*_ORGANS, _SMALL),
    ),
)
