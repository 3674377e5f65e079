"""Links, pictures and commands of the documents name things that exist."""

import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
# Closed studies keep the commands of their commit, and the changelog the old names.
RECORDS = {"notes", "CHANGELOG.md"}


def commands_of(page):
    """The text of a page, or none for a record of the past."""
    past = RECORDS & {page.name, page.parent.name}
    return "" if past else page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), target
        headings = (
            re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.M) if heading else []
        )
        assert not heading or heading in [h.lower().replace(" ", "-") for h in headings], target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_modules_and_configs(page):
    text = commands_of(page)
    for module in re.findall(r"python -m ((?:histojax|launch)[\w.]*\w)", text):
        assert module.endswith("STAGE") or importlib.util.find_spec(module), module
    for config in re.findall(r"--config=(\S+?\.py)", text) + re.findall(r"--run=(\S+?\.py)", text):
        assert (ROOT / config).is_file() or "NAME" in config, config


def test_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    prose = [line for line in re.sub(r"```.*?```", "", text, flags=re.S).splitlines() if line]
    prose = [line for line in prose if not line.startswith(("|", "#", "!"))]
    sentences = [s for s in re.split(r"(?<=[.!?:;])\s+", " ".join(prose)) if len(s.split()) > 2]
    assert sum(len(s.split()) for s in sentences) / len(sentences) <= 20
