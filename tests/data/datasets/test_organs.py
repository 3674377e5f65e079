from histojax.data.datasets.organs import organ_of


def test_an_image_of_monuseg_tells_its_organ():
    assert organ_of("TCGA-B0-5711-01Z-00-DX1") == "kidney"
    assert organ_of("monuseg-TCGA-18-5592-01Z-00-DX1") == "liver"


def test_other_names_tell_none():
    assert organ_of("TCGA-ZZ-0001-01Z-00-DX1") is None
    assert organ_of("01_1") is None
