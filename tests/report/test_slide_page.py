import re

import numpy as np
import pytest

from histojax.nuclei import measurements
from histojax.report import slide_page

OVERVIEW = np.full((80, 120, 3), 230, np.uint8)
LABELS = np.zeros((60, 90), np.int32)
for number in range(12):
    top, left = 5 + 18 * (number // 4), 4 + 22 * (number % 4)
    LABELS[top : top + 6 + number % 3, left : left + 8] = number + 1


def write(path, **more):
    given = {
        "name": "a <b>.svs",
        "lead": "12 nuclei found by x.",
        "facts": {"size": "9,000 x 6,000 px", "note": "at 0.5 um/px, as in the training"},
        "overview": ("The slide.", OVERVIEW),
        "of": "tissue",
        "settings": {"model": "x", "in all": "12.0 s"},
        "files": ["a <b>.csv", "a <b>.geojson.gz"],
    }
    slide_page.write(path, **given | more)
    source = path.read_text(encoding="utf-8")
    # Whatever it shows, it loads nothing.
    assert not re.search(r"<script|<link|url\(|@import", source)
    links = re.findall(r'(?:src|href)="([^"]*)"', source)
    assert links
    assert not [link for link in links if re.match(r"(?!data:)[a-z]+:|/", link)]
    assert len(source) < 6_000_000
    return source


def nuclei(labels=LABELS, mpp=0.5):
    image = np.full((*labels.shape, 3), 150, np.uint8)
    return measurements.measure(labels, image, mpp=mpp)


def test_a_page_has_the_numbers_of_its_slide(tmp_path):
    table = nuclei()
    summary = measurements.summary(table, 0.04)
    places = [("5 nuclei at x 3, y 4.", np.full((40, 50, 3), 9, np.uint8))] * 2
    source = write(
        tmp_path / "a.html",
        density=("dense", OVERVIEW),
        places=places,
        summary=summary,
        table=table,
    )
    assert "a &lt;b&gt;.svs" in source
    assert "<b>.svs" not in source
    assert 'href="a%20%3Cb%3E.csv"' in source
    for words in ("9,000 x 6,000 px", "as in the training", "12.0 s", "not for diagnosis"):
        assert words in source
    assert "12 nuclei, 300 per mm² of tissue" in source
    # Areas are 48, 56 and 64 px of 0.25 um2, four each: a median of 14.
    assert "area_um2: median 14" in source
    assert source.count("<img") == 4
    for heading in ("Overview", "Places", "Measurements", "Settings and time"):
        assert heading in source
    assert "Original and enhanced" not in source


def test_nuclei_at_the_edge_are_counted_and_named(tmp_path):
    labels = LABELS.copy()
    labels[:2, :8] = 50
    table = nuclei(labels)
    source = write(tmp_path / "a.html", summary=measurements.summary(table, None), table=table)
    assert "13 nuclei; 1 at the edge of the image are left out below." in source
    assert "per mm² of tissue" not in source


def test_an_enhanced_slide_is_compared_with_its_original(tmp_path):
    image = np.full((64, 64, 3), 100, np.uint8)
    source = write(tmp_path / "a.html", pair=("The middle.", image, image + 50))
    assert "Original and enhanced" in source
    assert "The middle." in source
    assert source.count("data:image/jpeg;base64,") == 3
    assert "Measurements" not in source


@pytest.mark.faults
def test_a_slide_without_nuclei_has_a_page(tmp_path):
    table = nuclei(np.zeros_like(LABELS))
    source = write(
        tmp_path / "a.html",
        summary=measurements.summary(table, 0.0),
        table=table,
        density=("dense", OVERVIEW),
    )
    assert "0 nuclei" in source
    assert not re.search(r">\s*nan\s*<", source)
    assert "Places" not in source


@pytest.mark.faults
def test_large_pictures_and_many_nuclei_keep_a_page_below_6_mb(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (900, 1200, 3), np.uint8)
    count = 50_000
    table = {name: rng.random(count) for name in nuclei()}
    table["touches_edge"] = np.zeros(count, bool)
    places = [("a place", noise)] * 4
    source = write(
        tmp_path / "a.html",
        overview=("", noise),
        density=("dense", noise),
        places=places,
        summary=measurements.summary(table, 1.0),
        table=table,
    )
    assert "50,000 nuclei" in source


def test_a_map_of_density_is_bright_where_nuclei_are_many_and_leaves_glass_alone():
    mask = np.zeros((80, 120), bool)
    mask[10:70, 10:110] = True
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(30, 3, 300), rng.uniform(12, 68, 100)])
    x = np.concatenate([rng.normal(40, 3, 300), rng.uniform(12, 108, 100)])
    shown, _ = slide_page.density_map(OVERVIEW, y, x, mask, 4.0)
    assert (shown.shape, shown.dtype) == (OVERVIEW.shape, np.uint8)
    np.testing.assert_array_equal(shown[~mask], OVERVIEW[~mask])
    assert shown[30, 40].sum() > 400 > shown[60, 100].sum()
    # Rows count downward.
    assert shown[30, 40].sum() > 2 * shown[50, 40].sum()


def test_a_map_of_density_tells_what_is_brightest():
    # Three points in every px.
    y, x = (np.repeat(axis.ravel(), 3) + 0.5 for axis in np.indices((80, 120)))
    mask = np.ones((80, 120), bool)
    assert slide_page.density_map(OVERVIEW, y, x, mask, 4.0)[1] == pytest.approx(3)


@pytest.mark.faults
def test_a_map_without_nuclei_or_tissue_is_dark_or_the_overview():
    none = np.zeros(0)
    mask = np.ones((80, 120), bool)
    dark, most = slide_page.density_map(OVERVIEW, none, none, mask, 4.0)
    assert most == 0
    assert (dark == dark[0, 0]).all()
    assert dark.max() < 10
    glass, _ = slide_page.density_map(OVERVIEW, none, none, ~mask, 4.0)
    np.testing.assert_array_equal(glass, OVERVIEW)
