"""YAML files of users: read without silent losses, and what is wrong with their syntax, by line and column."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from tta_bench.errors import UserError

# That of libyaml is ten times faster, where PyYAML was built with it.
_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class UniqueKeys(_SAFE):
    """Refuses a key that stands twice, of which PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As of the base class."""
        keys = [key.value for key, _ in node.value]
        twice = next((key for key, _ in reversed(node.value) if keys.count(key.value) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"'{twice.value}' stands twice", twice.start_mark)
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return found


def read_yaml(path: Path, remedy: str) -> tuple[str, Any]:
    """The text of a file and its content.

    Args:
        path: the file.
        remedy: what to do about one that cannot be read.

    Raises:
        UserError: it cannot be read, or is no YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{path} cannot be read ({reason}): {remedy}") from None
    try:
        return text, yaml.load(text, Loader=UniqueKeys)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(yaml_fault(error, str(path), text)) from None


def yaml_fault(error: Exception, place: str, text: str | None = None) -> str:
    """What is wrong with the syntax of a file.

    Args:
        error: of PyYAML.
        place: the file, as messages call it.
        text: of the file; None: it is read, if it can be.
    """
    if text is None:
        try:
            text = Path(place).read_text(encoding="utf-8")
        except (OSError, ValueError):
            text = ""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).partition("\n")[0]
    if mark is not None:
        line, column = mark.line, mark.column
    elif isinstance(error, yaml.reader.ReaderError) and (odd := yaml.reader.Reader.NON_PRINTABLE.search(text)):
        before = text[: odd.start()]
        line, column = before.count("\n"), len(before) - (before.rfind("\n") + 1)
    else:
        return f"{place} is no YAML: {problem}"
    # Where the problem is seen, or in the indentation of that line or of the one before.
    lines = text.split("\n")[max(line - 1, 0) : line + 1]
    tabbed = any("\t" in each[: len(each) - len(each.lstrip())] for each in lines)
    remedy = ": a tab indents this line or the one before, write spaces" if tabbed else ""
    return f"{place}, line {line + 1}, column {column + 1} is no YAML: {problem}{remedy}"
