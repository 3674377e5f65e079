"""GlaS (Warwick-QU): colorectal glands at 20x, each image graded."""

import csv
import functools
import re
from pathlib import Path

import numpy as np

from histojax.data.datasets import layout
from histojax.errors import UserError

CLASSES = (
    "background",
    "healthy",
    "adenomatous",
    "moderately differentiated",
    "moderately to poorly differentiated",
    "poorly differentiated",
)
_NAME = re.compile(r"(train|testA|testB)_\d+")
_COLUMNS = ("name", "patient id", "grade (sirinukunwattana et al. 2015)")
_SUFFIXES = (".bmp", ".png", ".tif")


def read(root: Path, max_pixels: int) -> layout.Contents:
    """Pairs NAME.bmp with NAME_anno.bmp; Grade.csv has patient and grade."""
    files = layout.files_of(root)
    pictures = (file for file in files if _NAME.fullmatch(file.stem))
    images = layout.by_stem(pictures, _SUFFIXES)
    annotations = layout.by_stem(files, _SUFFIXES, "_anno")
    pairs = layout.pairs(root, DATASET.layout, images, annotations, expected="{}_anno.bmp")
    tables = [file for file in files if file.name.lower() == "grade.csv"]
    if not tables:
        raise UserError(
            f"{root} holds images of GlaS and no Grade.csv, which has their patients and "
            "grades: add it from the data set"
        )
    table = _table(tables[0])
    examples = []
    for name, image, annotation in pairs:
        if name not in table:
            raise UserError(
                f"{tables[0]} has no line for image {name!r}: restore it from the data set"
            )
        patient, grade = table[name]
        load = functools.partial(_load, image, annotation, grade, max_pixels)
        part = name.partition("_")[0]
        examples.append(layout.Example(name, f"patient-{patient}", part, load))
    return layout.Contents(
        examples,
        mpp=0.62005,
        classes=CLASSES,
        objects="glands",
        splits={"": {"train": ["train"], "test": ["testA", "testB"]}},
    )


def _load(image: Path, annotation: Path, grade: int, max_pixels: int) -> layout.Record:
    """Reads an image and its glands, numbered; the mask holds the image's grade in every gland."""
    record = layout.read_pair(image, annotation, max_pixels)
    return {**record, "mask": (record["instances"] > 0) * np.uint8(grade)}


def _table(path: Path) -> dict[str, tuple[str, int]]:
    """{image name: (patient, index of its grade in CLASSES)}."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    found = {}
    rows = csv.DictReader(text.splitlines())
    rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
    for line, row in enumerate(rows, 2):
        name, patient, grade = ((row.get(column) or "").strip() for column in _COLUMNS)
        grade = grade.lower().replace("-", " ")
        # The table as published spells one of them "differentated".
        grade = grade.replace("differentated", "differentiated")
        if not name or not patient or grade not in CLASSES[1:]:
            raise UserError(
                f"{path}, line {line}, does not hold name, patient ID and a grade out of "
                f"{', '.join(CLASSES[1:])}: restore it from the data set"
            )
        found[name] = patient, CLASSES.index(grade)
    return found


DATASET = layout.Dataset(
    name="glas",
    title="GlaS (Warwick-QU), colorectal glands",
    licence="research only, not for commercial use",
    citation=(
        "K. Sirinukunwattana et al., Gland segmentation in colon histology images: the GlaS "
        "challenge contest, Medical Image Analysis 35, 2017, doi:10.1016/j.media.2016.08.008"
    ),
    homepage="https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest",
    layout="train_N.bmp, testA_N.bmp and testB_N.bmp, each with NAME_anno.bmp, and Grade.csv",
    read=read,
)
