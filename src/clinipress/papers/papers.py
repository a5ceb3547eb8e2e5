"""What the papers print, as data, and why each figure can or cannot be set beside a measured one.

Of the first three only the abstracts and public summaries could be read: their tables are not
here because nobody here has seen them. What is marked "inferred" is our arithmetic, not the
authors' word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["PAPERS", "Paper", "PaperRow", "Printed"]


@dataclass(frozen=True)
class Printed:
    """A figure as a paper prints it.

    Attributes:
        text: Its own digits and unit, never rounded again.
        notes: Keys of the paper's notes that say why it is not to be compared, or how.
    """

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PaperRow:
    """A row of a paper, in our columns.

    Attributes:
        name: As the paper calls it.
        where: Abstract, table or page that it stands in.
        cells: Title of the column -> figure. A title that ends in "[WORD]" stands for the column
            of the class whose name contains that word.
    """

    name: str
    where: str
    cells: Mapping[str, Printed]


@dataclass(frozen=True)
class Paper:
    """One source.

    Attributes:
        key: "s0", "s1", "s2" or "s4".
        title: Of the work.
        citation: Authors and where it can be found.
        read: What of it could be read here.
        rows: Key -> row.
        notes: Key -> footnote, one sentence or two.
        data: Images that the source names, and what is known of them.
    """

    key: str
    title: str
    citation: str
    read: str
    rows: Mapping[str, PaperRow]
    notes: Mapping[str, str]
    data: str
    general: tuple[str, ...] = field(default=())


VALIDATION = (
    "Validation images that the network was also chosen on, used as a test: such a figure is too "
    "high by an unknown amount. Ours is given for the validation images and for a test split that "
    "was sealed until the choice was made."
)
OURS_ALONE = (
    "The paper gives neither epochs nor rates, temperature or weight of the soft loss as far as "
    "it could be read; those of this table are ours or the edge guide's (T = 4, alpha = 0.7)."
)

S0 = Paper(
    key="s0",
    title="Optimizing Lightweight Medical AI for Chest CT Classification",
    citation="Kansal et al., medRxiv 2025.11.23.25340844",
    read="the abstract; its table by teacher could not be read",
    data="chest-ctscan-images (Kaggle, mohamedhanyyy), by the paper's own link",
    rows={
        "densenet121": PaperRow(
            "DenseNet121 (paper)",
            "abstract",
            {
                "teacher: train accuracy": Printed("near-perfect", ("unsaid",)),
                "teacher: validation": Printed("77.2 %", ("validation", "images")),
                "int8: validation": Printed("91.4 %", ("validation", "images", "credit")),
                "teacher: memory at the peak": Printed("\u2248 2,465 MB", ("memory",)),
                "int8: memory at the peak": Printed("\u2248 618 MB", ("memory",)),
                "file, teacher over int8": Printed("\u201cfactor of 4\u201d", ("memory",)),
            },
        ),
        "efficientnet_b3": PaperRow(
            "EfficientNetB3 (paper)",
            "abstract",
            {"student: validation": Printed("+42 %", ("kind", "credit", "validation", "images"))},
        ),
        "nasnet_a_mobile": PaperRow(
            "NasNetMobile (paper)",
            "abstract",
            {
                "teacher: train accuracy": Printed("near-perfect", ("unsaid",)),
                "student: validation": Printed("+30 %", ("kind", "credit", "validation", "images")),
                "teacher: memory at the peak": Printed("> 2.4 GB", ("memory",)),
            },
        ),
    },
    notes={
        "images": (
            'The paper says "1,252 samples, balanced classes of COVID-19 and non-COVID-19". The '
            "set that it links has 1,000 images of four classes of lung cancer and normal, none "
            "of COVID-19 and not balanced; 1,252 is the number of COVID-19 images alone in "
            "another set (SARS-CoV-2 CT, 1,252 and 1,229 or 1,230). On which images the figure "
            "was measured is not known."
        ),
        "memory": (
            "2,465 / 618 is 3.99, the 32 / 8 of the bits: the second figure may be the first "
            "divided on paper. Neither can be the network: DenseNet-121 with two classes has 7.0 "
            "million parameters, 28 MB in float32. About 2.4 GB is what the usual estimate of "
            "activations times batch plus parameters gives for a batch of 12 (inferred). Here "
            "each kind of memory has a name, and each is measured."
        ),
        "credit": (
            "A student far above its teacher says that the teacher was overfit or badly fed, not "
            "that distillation helped. What the teacher gave is the difference from the control: "
            "the same student for as long, alpha = 0."
        ),
        "kind": (
            "Points or percent of the teacher's accuracy: the paper does not say, nor what the "
            "accuracies were. Ours are accuracies, and differences are in points."
        ),
        "unsaid": "No figure is given.",
        "validation": VALIDATION,
        "ours": OURS_ALONE,
        "student": (
            'The paper names no student ("small students"); those of this table are our choice, '
            "one small network per teacher and of its kind where there is one."
        ),
    },
    general=("student", "ours"),
)

S1 = Paper(
    key="s1",
    title="Quantized Machine Learning Models for Medical Imaging in Low-Resource Healthcare",
    citation="Kanneti and Shah, arXiv:2605.19207",
    read="the abstract and public summaries of the text; not its table by class",
    data="brain tumour MRI, four classes (Bhuvaji et al., which the paper cites)",
    rows={
        "float32": PaperRow(
            "MobileNetV2, full precision (paper)",
            "abstract",
            {
                "validation accuracy": Printed("82.20 %", ("validation", "one image")),
                "F1 [meningioma]": Printed("\u2248 0.73", ("validation",)),
                "F1 [pituitary]": Printed("0.86\u20130.89", ("validation",)),
                "F1 [no]": Printed("0.86\u20130.89", ("validation",)),
                "file": Printed("35.34 MB", ("optimizer",)),
            },
        ),
        "float16": PaperRow(
            "MobileNetV2, float16 TensorFlow Lite (paper)",
            "abstract",
            {
                "validation accuracy": Printed("82.37 %", ("validation", "one image")),
                "change, points": Printed("+0.17", ("one image",)),
                "F1 [meningioma]": Printed("\u2248 0.73", ("validation",)),
                "F1 [pituitary]": Printed("0.86\u20130.89", ("validation",)),
                "F1 [no]": Printed("0.86\u20130.89", ("validation",)),
                "file": Printed("5.76 MB"),
                "smaller by the paper's accounting": Printed("6.14\u00d7", ("optimizer",)),
            },
        ),
        "planned": PaperRow(
            "quantization-aware int8; DenseNet-101 \u2192 DenseNet-32 (paper)",
            "abstract",
            {"validation accuracy": Printed("future work", ("planned",))},
        ),
    },
    notes={
        "one image": (
            "0.17 points are one image: of fewer than 1,100 images only 573 (471 and 472 right) "
            "and 590 give both roundings, and 573 is a fifth of the training folder by class "
            "(inferred). The 95 % Wilson interval of 472 of 573 is 79.0 to 85.3 %: no "
            "improvement is shown."
        ),
        "optimizer": (
            "6.14 counts optimizer state: MobileNetV2 with a small dense head in a .h5 file with "
            "Adam's two moments is three times its weights; rebuilt so, every head tried gave "
            "6.09 to 6.14 over float16, and the weights alone twice (inferred). The column "
            '"smaller" compares files of one kind; "by the paper\'s accounting" is 12 bytes for '
            "each parameter of the float32 network over the file."
        ),
        "planned": "Described and left to future work by its authors: there is no figure.",
        "validation": VALIDATION,
        "folder": (
            "The published test folder repeats images of the training folder (88 the same file, "
            "259 of 394 nearly the same picture), so where its images are used both folders are "
            "pooled and divided by near-duplicate cluster; patients are not named in this set."
        ),
        "names": (
            "DenseNet-101 and DenseNet-32 are in no paper of DenseNet's: blocks (6, 12, 18, 12) "
            "and (3, 4, 4, 3), the latter with 32 convolutions, are our choice."
        ),
        "ours": OURS_ALONE,
    },
    general=("folder", "names", "ours"),
)

S2 = Paper(
    key="s2",
    title="Explainable Knowledge Distillation for Efficient Medical Image Classification",
    citation="Mir and Rizvi, arXiv:2508.15251",
    read="the abstract and the beginning of the introduction; none of its tables",
    data="COVID-QU-Ex (chest X-ray) and LC25000 (histology of lung and colon)",
    rows={
        "student": PaperRow(
            "OFA-595 student (paper)",
            "abstract",
            {
                "accuracy": Printed("\u201chigh\u201d", ("unsaid",)),
                "parameters": Printed("\u201csignificantly reduced\u201d", ("unsaid",)),
                "time": Printed("\u201csignificantly reduced\u201d", ("unsaid",)),
            },
        )
    },
    notes={
        "unsaid": "The part that could be read claims this in words and gives no figure.",
        "ofa": (
            "OFA-595 is no supernet but one network found in one (595 million multiply-adds at "
            "236 pixels); no weights of it lie within reach, so here it starts from random ones."
        ),
        "data": (
            'The paper\'s "LCS25000" of "chest X-rays" is LC25000: histology, 25,000 pictures '
            "made of 1,250, of which a random split puts siblings on both sides; the classes of "
            "COVID-QU-Ex come from different hospitals. On other images than the paper's no "
            "figure is to be compared, only the order of the rows."
        ),
        "ours": OURS_ALONE,
        "macro": (
            "Precision and its interval are means over the classes (the ends too, which is wider "
            "than the interval of the mean); recall is balanced accuracy; area and F1 are macro."
        ),
    },
    general=("ofa", "data", "macro", "ours"),
)


def _guide(name: str, size: str, cpu: str, gpu: str, auc: str, smaller: str) -> PaperRow:
    value, _, change = auc.partition(" ")
    cells = {
        "file": Printed(size, ("made",)),
        "time, CPU": Printed(cpu, ("made",)),
        "time, GPU": Printed(gpu, ("made",)),
        "AUC": Printed(value, ("made", "metric")),
    }
    if change:
        cells["change of AUC"] = Printed(change.strip("()"), ("made", "percent"))
        cells["reduction"] = Printed(smaller, ("made",))
    return PaperRow(f"{name} (guide)", "benchmark table", cells)


S4 = Paper(
    key="s4",
    title="Model Compression for Healthcare",
    citation="Nirmitee.io, engineering guide, March 2026",
    read="all of it",
    data="none is named",
    rows={
        "fp32": _guide("Original FP32", "98 MB", "45 ms", "12 ms", "0.962", ""),
        "ptq": _guide("PTQ INT8", "25 MB", "18 ms", "5 ms", "0.955 (\u22120.7 %)", "74 %"),
        "qat": _guide("QAT INT8", "25 MB", "18 ms", "5 ms", "0.959 (\u22120.3 %)", "74 %"),
        "distilled": _guide(
            "Distilled MobileNetV3", "14 MB", "8 ms", "3 ms", "0.948 (\u22121.5 %)", "86 %"
        ),
        "pruned": _guide("Pruned 50 %", "49 MB", "28 ms", "7 ms", "0.957 (\u22120.5 %)", "50 %"),
        "both": _guide("Distill + QAT", "4 MB", "4 ms", "1.5 ms", "0.943 (\u22122.0 %)", "96 %"),
    },
    notes={
        "made": (
            "The guide names neither images nor device: its figures are an illustration. 98 MB "
            "is a ResNet-50 (97.8 MB), not the ResNet-152 of its introduction; 14 MB is no "
            "standard MobileNetV3."
        ),
        "metric": 'Headed "Accuracy (AUC)": taken as the area under the curve.',
        "percent": (
            "Some of its changes are points, some percent of the original, rounded: 0.962 to "
            "0.957 is 0.005, or 0.52 %. Ours are differences of the area, paired."
        ),
        "half": (
            '"50 %" of what, the guide does not say; half the filters of every layer would be a '
            "quarter of the weights. Here it is half of the parameters, removed for good."
        ),
        "gpu": "No GPU was used here: not measured.",
    },
    general=("half", "gpu"),
)

PAPERS: Mapping[str, Paper] = {paper.key: paper for paper in (S0, S1, S2, S4)}
