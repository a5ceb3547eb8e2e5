"""Tiny SYNTHETIC trees in the layouts in which the named sets are published."""

import zipfile
from dataclasses import replace
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from clinipress.data.named.catalogue import find_set

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def picture(path, seed=0):
    """A SYNTHETIC picture of noise; another seed, another file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="PNG")
    return path


def small(name, counts, **changes):
    """A set's facts with other counts."""
    return replace(find_set(name), counts=counts, **changes)


def class_tree(root, folders):
    """Folder -> how many pictures in it."""
    for seed, (folder, count) in enumerate(folders.items()):
        for number in range(count):
            picture(root / folder / f"im ({number}).png", seed * 1000 + number)


def qu_ex(root, images=2):
    """COVID-QU-Ex with its doubled names; one infection picture differs from its twin."""
    lung = root / "Lung Segmentation Data" / "Lung Segmentation Data"
    infection = root / "Infection Segmentation Data" / "Infection Segmentation Data"
    seed = 0
    for split in ("Train", "Val", "Test"):
        for label in ("COVID-19", "Non-COVID", "Normal"):
            for number in range(images):
                seed += 1
                name = f"{label.lower()}_{split}_{number}.png"
                picture(lung / split / label / "images" / name, seed)
                picture(lung / split / label / "lung masks" / name, seed + 500)
                if number == 0:
                    other = split == "Val" and label == "Normal"
                    picture(infection / split / label / "images" / name, seed + 900 * other)
                    picture(infection / split / label / "lung masks" / name, seed + 500)
                    picture(infection / split / label / "infection masks" / name, seed + 700)


def lc25000(root, siblings=3):
    """LC25000: two tiles of each class; the groups are in the file that LC25000-clean publishes."""
    top, lines, tile = root / "lung_colon_image_set", [], 0
    for tissue, label, stem in (
        ("colon", "colon_aca", "colonca"), ("colon", "colon_n", "colonn"),
        ("lung", "lung_aca", "lungaca"), ("lung", "lung_n", "lungn"),
        ("lung", "lung_scc", "lungscc"),
    ):  # fmt: skip
        number = 0
        for local in range(2):
            for _ in range(siblings):
                number += 1
                name = f"{stem}{number}"
                picture(top / f"{tissue}_image_sets" / label / f"{name}.jpeg", tile * 100 + number)
                lines.append(f"{name},{name}.jpeg,{label},{tissue},{local},{tile}")
            tile += 1
    table = root / "lc25000_image_groups.csv"
    table.write_text(
        "stem,filename,label,tissue,local_cluster_label,group_id\n" + "\n".join(lines) + "\n"
    )
    return table


def ham10000(root):
    """HAM10000: two parts and a table; lesion 1 has two images, one row has no image."""
    rows = [
        ("HAM_1", "ISIC_1", "nv", "histo", "40.0", "male", "back"),
        ("HAM_1", "ISIC_2", "nv", "histo", "40.0", "male", "back"),
        ("HAM_2", "ISIC_3", "mel", "histo", "", "female", "face"),
        ("HAM_3", "ISIC_4", "mel", "consensus", "55.0", "unknown", "trunk"),
    ]
    for number, row in enumerate(rows):
        picture(root / f"HAM10000_images_part_{number % 2 + 1}" / f"{row[1]}.jpg", number)
    rows.append(("HAM_9", "ISIC_9", "bcc", "histo", "1", "male", "ear"))
    table = root / "HAM10000_metadata.csv"
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization"
    table.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return table


def workbook(path, rows, *, shared=True):
    """A workbook as spreadsheet programs write it: shared strings, numbers as numbers."""
    texts, lines = [], []
    for number, row in enumerate(rows, start=1):
        cells = []
        for column, value in zip("ABCDEFG", row, strict=False):
            if value is None:
                continue
            at = f'r="{column}{number}"'
            if isinstance(value, int | float):
                cells.append(f"<c {at}><v>{value}</v></c>")
            elif shared:
                cells.append(f'<c {at} t="s"><v>{len(texts)}</v></c>')
                texts.append(
                    f"<si><r><t>{escape(value[:2])}</t></r><r><t>{escape(value[2:])}</t></r></si>"
                )
            else:
                cells.append(f'<c {at} t="inlineStr"><is><t>{escape(value)}</t></is></c>')
        lines.append(f'<row r="{number}">{"".join(cells)}</row>')
    sheet = f'<worksheet xmlns="{MAIN}"><sheetData>{"".join(lines)}</sheetData></worksheet>'
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("xl/worksheets/sheet1.xml", sheet)
        if shared:
            book.writestr("xl/sharedStrings.xml", f'<sst xmlns="{MAIN}">{"".join(texts)}</sst>')
    return path


def covid_ct(root):
    """UCSD's COVID-CT: zipped folders unpacked each into its own, lists and a workbook."""
    covid = ["2020.02.13-p13-77%0.png", "2020.02.13-p13-77%1.png", "b.png"]
    other = ["1%0.jpg", "1%1.jpg", "2.jpg", "unlisted.jpg"]
    for number, name in enumerate(covid):
        picture(root / "CT_COVID" / "CT_COVID" / name, number)
    for number, name in enumerate(other):
        picture(root / "CT_NonCOVID" / "CT_NonCOVID" / name, 50 + number)
    lists = {
        "trainCT_COVID": covid[:2], "valCT_COVID": covid[2:], "testCT_COVID": [],
        "trainCT_NonCOVID": other[:2], "valCT_NonCOVID": [], "testCT_NonCOVID": other[2:3],
    }  # fmt: skip
    for name, files in lists.items():
        (root / f"{name}.txt").write_text("\r\n".join(files) + "\n")
    workbook(
        root / "COVID-CT-MetaInfo.xlsx",
        [
            ["Image ID", "File name", "Patient ID", "Age", "Gender"],
            [1, covid[0], "Patient 12", 36, "F"],
            [2, covid[1], "Patient 12", 36.0, "F"],
        ],
    )


def matlab(path, *, label, patient, seed, mask=True):
    """A slice as MATLAB's ``save -v7.3`` writes it: HDF5, transposed, text as numbers."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 3000, (6, 9)).astype(np.int16)  # [h, w]
    with h5py.File(path, "w", userblock_size=512) as file:
        data = file.create_group("cjdata")
        data["image"] = image.T
        data["label"] = np.array([[float(label)]])
        data["PID"] = np.array([[ord(c)] for c in patient], dtype=np.uint16)
        if mask:
            data["tumorMask"] = (image > 2000).astype(np.uint8).T
    return image
