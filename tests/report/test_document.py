import base64
from types import SimpleNamespace

import numpy as np

from histojax.report import document
from histojax.report.document import Picture


def test_pictures_share_the_room_of_a_page(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8)

    def filled(count, limit):
        pictures = [Picture("noise", noise) for _ in range(count)]
        document.encode(pictures, limit)
        sizes = [len(base64.b64decode(picture.data)) for picture in pictures]
        assert sum(sizes) <= limit
        return [size for size in sizes if size]

    (whole,) = filled(1, 10**7)
    # Two in the room of one and a half are both kept, at a lower quality.
    assert len(filled(2, whole * 3 // 2)) == 2
    # Many that cannot all be kept at any quality: as many as there is room for.
    assert 0 < len(filled(20, whole * 3 // 2)) < 20
    assert filled(1, 1000) == []


def test_a_picture_without_room_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(document, "encode", lambda pictures: None)
    picture = Picture("noise.", np.zeros((1, 1, 3)))
    made = SimpleNamespace(
        name="A <b>",
        size=(1, 1),
        scale=1,
        mpp=None,
        files={},
        nuclei=None,
        note="<script>",
        class_names=(),
        before=False,
        box=(0, 0, 1, 1),
    )
    path, images = tmp_path / "a.html", [(made, picture)]
    parts = {"images": images, "left": {}, "unsummed": ""}
    document.write(path, "predictions", title="<i>", lead="", pictures=[picture], **parts)
    page = (tmp_path / "a.html").read_text()
    assert "noise. Left out here to keep the page small." in page
    assert "&lt;script&gt;" in page
    assert "<h2>A &lt;b&gt;</h2>" in page
    assert "<title>&lt;i&gt;</title>" in page


def test_what_cannot_stand_in_a_page_is_replaced():
    assert document.printable("a\0b\ud800\n\tc") == "a\ufffdb\ufffd\n\tc"
