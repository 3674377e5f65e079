import pytest


def blank(run, view, nuclei, enhanced, files, **_):
    files["page"].write_text("")


@pytest.fixture
def blank_pages(monkeypatch):
    """Pages have tests of their own, and take longer than all the rest."""
    monkeypatch.setattr("histojax.inference.regions.page.write", blank)
