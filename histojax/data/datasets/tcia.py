"""TCIA pan-cancer patches: 1,356 manually segmented H&E patches of 14 TCGA cancer types at 40x."""

import logging
import re
from pathlib import Path

from histojax.data.datasets import layout
from histojax.data.sources.splits import tcga_patient

_log = logging.getLogger(__name__)

_IMAGE, _LABELS = "_crop", "_labeled_mask_corrected"
# Patches of the archive that were not segmented: 1,365 less these nine are the set's 1,356.
_UNSEGMENTED = ("49", "59", "299", "310", "376", "450", "760", "981", "1312")


def read(root: Path, max_pixels: int) -> layout.Contents:
    """Pairs N_crop.png with N_labeled_mask_corrected.png; a table gives patch N its patient."""
    files = layout.files_of(root)
    images = layout.by_stem(files, (".png",), _IMAGE)
    labels = layout.by_stem(files, (".png",), _LABELS)
    for number in _UNSEGMENTED:
        if number not in labels:
            images.pop(number, None)
    pairs = layout.pairs(root, DATASET.layout, images, labels, expected=f"{{}}{_LABELS}.png")
    patients = _patients(files)
    unknown = len(set(images) - set(patients))
    if unknown:
        _log.warning(
            f"the patients of {unknown} of {len(images)} patches are not known, so each is taken "
            "as a patient of its own and one patient can be on both sides of a split: put the "
            "table of patches and TCGA barcodes from the set's page (a .txt or .csv file) into the "
            "source"
        )
    return layout.label_images(
        ((n, patients.get(n, f"patch-{n}"), image, mask) for n, image, mask in pairs),
        max_pixels,
        mpp=0.25,
    )


def _patients(files: list[Path]) -> dict[str, str]:
    """{patch number: patient} from lines "number,...TCGA-XX-XXXX..." of text files."""
    patients = {}
    for file in files:
        if file.suffix.lower() not in (".txt", ".csv"):
            continue
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            number = re.match(r'\s*"?(\d+)"?\s*[,;\t]', line)
            patient = tcga_patient(line)
            if number and patient:
                patients[number[1]] = patient
    return patients


DATASET = layout.Dataset(
    name="tcia",
    title="TCIA pan-cancer nuclei, manually segmented patches",
    licence="CC BY 3.0",
    citation=(
        "L. Hou et al., Dataset of segmented nuclei in hematoxylin and eosin stained "
        "histopathology images of ten cancer types, Scientific Data 7, 2020, "
        "doi:10.1038/s41597-020-0528-1; data doi:10.7937/tcia.2019.4a4dkp9u"
    ),
    homepage="https://doi.org/10.7937/tcia.2019.4a4dkp9u",
    layout=f"N{_IMAGE}.png with N{_LABELS}.png beside it",
    read=read,
)
