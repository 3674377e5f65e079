"""The organ that an image of MoNuSeg shows, by the hospital in its TCGA barcode.

The organs are those that the challenge states (Kumar et al. 2020, training and test set), which for
six training images (18, 21, 38, 49, 50) say liver where the barcode's own study is of the lung.
"""

from histojax.data.sources.splits import tcga_patient

_SITES = {
    "bladder": ("CU", "DK", "G2", "ZF"),
    "brain": ("FG", "HT"),
    "breast": ("A7", "AC", "AO", "AR", "E2"),
    "colon": ("A6", "AY", "NH"),
    "kidney": ("2Z", "B0", "GL", "HE", "IZ"),
    "liver": ("18", "21", "38", "49", "50"),
    "lung": ("44", "69"),
    "prostate": ("CH", "EJ", "G9", "HC"),
    "stomach": ("KB", "RD"),
}
_ORGAN_OF_SITE = {site: organ for organ, sites in _SITES.items() for site in sites}


def organ_of(name: str) -> str | None:
    """The organ of the image of MoNuSeg whose name holds its TCGA barcode, None for any other."""
    patient = tcga_patient(name)
    return _ORGAN_OF_SITE.get(patient[5:7]) if patient else None
