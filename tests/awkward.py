"""Names that a file system takes, and that some parser on the way would read as something else."""

import csv
from collections.abc import Iterable

from tta_bench.runtime.names import unguarded

NAMES = (
    *("1_1", "11", "1e3", "0x10", "012", "1:30", "5.", "null", "true", "no", "~", "inf", "nan", "None", "???", "?"),
    *(
        "a,b",
        "a,b,c",
        ",",
        "'q'",
        '"d"',
        "it's",
        "a b",
        " a",
        "b ",
        "a=b",
        "A#1",
        "a;b",
        "a:b",
        "(a)",
        "!x",
        "-a",
        "a-",
    ),
    *("a{b", "a}b", "{x}", "[x]", "[red]x", "$", "$HOME", "${x}", "a${b", "${source}", "50%", "&", "*", "glob(*)"),
    *("\\", "a\\b", "a\\", "\\'", "\\${x}", "choice(a,b)", "range(0,3)", "<b>", "\\cite{x}", "| a |", "`c`", ":smile:"),
    *("@x", "+x", "=cmd|'calc'!A0", "a\nb", "a\tb", "a\rb", "\ttab", "'=x", "average", "(average)", "mean", "file"),
    *("Zürich", "Mu\N{COMBINING DIAERESIS}nchen", "東京", "😀", "👨\N{ZERO WIDTH JOINER}👩", "a" * 200),
)


def typed(name):
    """A name in quotation marks, as the documentation tells to write one in a list: doubled backslashes and all."""
    parts = name.split('"')
    escaped = '\\"'.join(part + "\\" * (len(part) - len(part.rstrip("\\"))) for part in parts)
    return f'"{escaped}"'


def sites(root, names=NAMES):
    """Folders of ``data=folder``, without images."""
    for name in names:
        (root / name / "image").mkdir(parents=True)
        (root / name / "mask").mkdir()
    return root


def csv_rows(lines: Iterable[str]) -> list[dict[str, str]]:
    """The rows that :func:`csv_file` was given, as text; ``lines`` with their own line ends."""
    plain = ([unguarded(cell) for cell in line] for line in csv.reader(lines))
    columns = next(plain, [])
    return [dict(zip(columns, line, strict=False)) for line in plain if line]
