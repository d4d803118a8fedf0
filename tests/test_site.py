"""The site of the documentation builds, and says when a link leads nowhere."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("mkdocstrings", reason="needs the extra docs")

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "mkdocs.yml", "docs", "benchmarks", "src"]


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the site is made of."""
    for name in [*PAGES, "examples", "experiments"]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_every_public_name_is_in_the_reference_and_every_link_leads_somewhere(checkout):
    import tta_bench

    build(load_config(str(checkout / "mkdocs.yml")))
    page = (checkout / "build/site/reference/index.html").read_text()
    assert [name for name in tta_bench.__all__ if f">{name}<" not in page] == ["__version__"]


@pytest.mark.parametrize("link", ["[x](nowhere.md)", "[x](protocol.md#nowhere)", "[x](../src/nowhere.py)"])
def test_a_link_that_leads_nowhere_is_an_error(checkout, link):
    with open(checkout / "docs/architecture.md", "a") as page:
        page.write(f"\n{link}\n")
    with pytest.raises(Abort, match="strict"):
        build(load_config(str(checkout / "mkdocs.yml")))
