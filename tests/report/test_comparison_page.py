import json
import re

import numpy as np
import pytest

from histojax.imaging import figures
from histojax.report import comparison_page, table


def entry(mean, **more):
    return {"mean": mean, "low": mean - 0.5, "high": mean + 0.5, "n": 6, "left_out": 0, **more}


def result(**changes):
    """A comparison of two runs, one of them of a name that has to be escaped."""
    other = "<b>&other"
    described = {"workdir": "runs/x", "stage": "generator", "steps": 3000, "checkpoint_step": 2700}
    return {
        "runs": [
            {
                "label": "bicubic",
                "seconds": 90,
                "parameters": 240928,
                "differs_in": [],
                **described,
            },
            {
                **{"label": other, "seconds": None, "parameters": None, **described},
                "differs_in": ["seed: 0 -> 1"],
            },
        ],
        "against": "bicubic",
        "data": {
            **{"source": "folder", "split": "val", "images": 6, "fingerprint": "3fa9", "scale": 4},
            **{"seed": 0, "degradation": {"name": "bicubic"}},
        },
        "test": "p is two-sided.",
        "notes": ["A & note."],
        "scores": {"sr": {"psnr_rgb": {"bicubic": entry(30.0), other: entry(30.6)}}},
        "baselines": {"sr": {"psnr_rgb": {"bicubic": entry(28.0), "linear": entry(29.5)}}},
        "differences": {"sr": {"psnr_rgb": {other: entry(0.6, p=0.03125, exact=True, left_out=1)}}},
        "pictures": ["figures/a.png", "figures/lost.png"],
        "command": "python -m histojax.compare runs/x runs/y --output=out",
        **changes,
    }


@pytest.fixture
def page(tmp_path):
    rows = [{"step": s, "split": "val", "psnr_rgb": 27.0 + s, "seconds": s * 60} for s in (1, 2)]
    folders = {}
    for label in ("bicubic", "<b>&other"):
        folder = tmp_path / str(len(folders))
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        folders[label] = {"generator": folder}
    picture = np.full((32, 32, 3), 99, np.uint8)
    figures.write_comparison(tmp_path / "figures" / "a.png", "a", {"hr": picture})
    figures.write_comparison(tmp_path / "figures" / "old.png", "old", {"hr": picture})
    comparison_page.write(tmp_path / "report.html", result(), folders)
    return (tmp_path / "report.html").read_text()


def test_runs_stand_beside_their_baseline_with_the_best_marked(page):
    scores, differences = re.findall(r"<table>.*?</table>", page, re.S)[:2]
    rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', scores, re.S)
    assert [head for head, _ in rows] == [
        "bicubic",
        "linear filter",
        "bicubic",
        "&lt;b&gt;&amp;other",
    ]
    assert [cells.count("best of its column") for _, cells in rows] == [0, 0, 0, 1]
    assert "30.10 – 31.10" in rows[3][1]
    ((head, cell),) = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', differences, re.S)
    assert head == "&lt;b&gt;&amp;other"
    assert "+0.60<small>+0.10 to +1.10</small><small>p 0.031</small>" in cell
    assert "6 images, 1 without a finite score left out" in cell


def test_the_page_has_curves_pictures_and_what_the_runs_were(page):
    assert "<b>&other" not in page
    assert page.count("psnr_rgb (val)</figcaption>") == 2
    assert page.count("<img ") == 1
    assert "lost.png cannot be read as a picture" in page
    assert "A &amp; note." in page
    assert "seed: 0 -&gt; 1" in page
    assert "240,928" in page
    assert "<td>1.5</td>" in page
    assert "runs/x runs/y" in page
    assert not re.search(r"<script|<link|url\(", page)


@pytest.mark.parametrize(
    ("row", "title"),
    [
        ("sr", "Enhanced image"),
        ("hr_to_s", "Nuclei in the real image"),
        ("generator", "Image enhanced by the generator stage"),
        ("generator_to_s", "Nuclei in the generator stage's image"),
        ("hr_to_segmentation", "Nuclei in the real image, by the segmentation stage"),
    ],
)
def test_rows_have_titles(row, title):
    assert comparison_page.row_title(row) == title


@pytest.mark.parametrize(
    ("p", "shown"),
    [(0.03125, "0.031"), (1.0, "1.000"), (0.0004, "< 0.001"), (0.5, "0.500"), (None, "–")],
)
def test_a_p_is_shown_in_three_decimals(p, shown):
    assert table.p_text(p) == shown
