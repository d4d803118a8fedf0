"""Hooks of the site: pages outside docs/, files of the repository that pages link to, and the reference.

In the repository a page links to what lies beside it, so that links work wherever the repository is read. On the site
those links lead to the page or, for code and configuration, to a page that shows the file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

from tta_bench import _PLACES

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Pages outside docs/ -> their place on the site."""

EXTENDED = (
    "tta_bench.methods.base.Method",
    "tta_bench.methods.card.Card",
    "tta_bench.models.segmentation.SegmentationModel",
    "tta_bench.data.readers.base.Reader",
    "tta_bench.adaptation.scenarios.base.Scenario",
    "tta_bench.sinks.base.Sink",
)
"""What a plug-in extends or makes, by where it is imported from."""

LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml"}
LINK = re.compile(r"(?P<text>\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
REFERENCE = "reference.md"
ROLE = re.compile(r":(?:class|func|meth|attr|data|mod):<code>~?(?P<name>[^<]*)</code>")
LITERAL = re.compile(r"\s*::</p>")


def on_config(config: Any) -> Any:
    """Put the pages that match in the place of every pattern of the navigation."""
    config.nav = [_expanded(entry) for entry in config.nav]
    return config


def _expanded(entry: Any) -> Any:
    if isinstance(entry, dict):
        ((title, below),) = entry.items()
        return {title: [page for each in ([below] if isinstance(below, str) else below) for page in _pages(each)]}
    return entry


def _pages(pattern: str) -> list[str]:
    """The pages of docs/ that match a pattern, a folder's README.md first; what is no pattern as it is."""
    if "*" not in pattern:
        return [pattern]
    pages = (ROOT / "docs").glob(pattern)
    return [str(page.relative_to(ROOT / "docs")) for page in sorted(pages, key=lambda p: (p.name != "README.md", p))]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside docs/, the reference, and a page for every file or folder that a page links to."""
    sources = {place: ROOT / page for page, place in PAGES.items()}
    sources |= {file.src_uri: ROOT / "docs" / file.src_uri for file in files if file.src_uri.endswith(".md")}
    for place in PAGES.values():
        files.append(File.generated(config, place, content=sources[place].read_text(encoding="utf-8")))
    files.append(File.generated(config, REFERENCE, content=reference()))
    shown = {target for source in sources.values() for target in linked_files(source)}
    for target in sorted(shown):
        page = File.generated(config, _place(target), content=shown_file(target))
        page.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links that hold in the repository into links that hold on the site."""
    origins = {place: origin for origin, place in PAGES.items()}
    origin = PurePosixPath(origins.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    here = PurePosixPath(page.file.src_uri).parent

    def moved(match: re.Match[str]) -> str:
        target = _in_repository(origin, match["target"])
        if target is None:
            return match[0]
        return f"]({os.path.relpath(_place(target), here)}{match['anchor'] or ''})"

    return LINK.sub(moved, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Show the cross-references and the literal blocks of docstrings, which are written for plain text."""
    if page.file.src_uri != REFERENCE:
        return html
    return LITERAL.sub(":</p>", ROLE.sub(lambda match: f"<code>{match['name'].split('.')[-1]}</code>", html))


def linked_files(source: Path) -> set[str]:
    """Files and folders of the repository, by their path in it, that a page links to and that are no pages."""
    origin = PurePosixPath(source.relative_to(ROOT).as_posix())
    targets = (_in_repository(origin, match["target"]) for match in LINK.finditer(source.read_text(encoding="utf-8")))
    return {target for target in targets if target is not None and _place(target).startswith("source/")}


def shown_file(target: str) -> str:
    """A page that shows a file, or lists a folder's files."""
    path = ROOT / target
    if path.is_dir():
        names = sorted(each.name for each in path.iterdir() if each.is_file())
        return f"# {target}\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"
    text = path.read_text(encoding="utf-8")
    return f"# {target}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{text}````\n"


def reference() -> str:
    """The reference of the names that users import, from their docstrings."""
    offered = "\n".join(f"::: {place.replace(':', '.')}" for place in _PLACES.values())
    extended = "\n".join(f"::: {place}\n    options: {{show_root_full_path: true}}" for place in EXTENDED)
    return (
        f"# Reference\n\nWhat `import tta_bench` offers:\n\n{offered}\n\n"
        f"What a plug-in extends, imported from where it says:\n\n{extended}\n"
    )


def _in_repository(origin: PurePosixPath, target: str) -> str | None:
    """The path in the repository of what a page links to; None for a link elsewhere or to nothing."""
    if ":" in target or target.startswith("/"):
        return None
    path = os.path.normpath(origin.parent / target)
    return path if (ROOT / path).exists() else None


def _place(target: str) -> str:
    """Where a file of the repository is found on the site."""
    if target in PAGES:
        return PAGES[target]
    return target.removeprefix("docs/") if target.startswith("docs/") else f"source/{target}.md"
