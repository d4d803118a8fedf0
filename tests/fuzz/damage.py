"""What all fuzz tests share: damage of valid seeds, odd values, and the two outcomes that are allowed."""

import math
import signal
from contextlib import contextmanager

from hypothesis import settings
from hypothesis import strategies as st

from tta_bench.errors import UserError

SECONDS = 60
"""A case that takes longer hangs."""


def cases(seeded, fuzz):
    """How many cases a test has: in ``make test``, and in ``make fuzz``."""
    count = fuzz if settings.get_current_profile_name() == "fuzz" else seeded
    return settings(max_examples=count)


@contextmanager
def outcome():
    """Success, or a :class:`UserError` with sentences, within a minute: anything else fails the test."""

    def hangs(signum, frame):
        raise TimeoutError(f"still busy after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    except UserError as error:
        if not error.faults or any(not sentence.strip() or "Traceback" in sentence for sentence in error.faults):
            raise AssertionError(f"no sentences: {error.faults}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


NUMBERS = st.sampled_from(
    [math.nan, math.inf, -math.inf, 0, -0.0, -1, 1, 0.5, 1.5, 2**31, 2**63, 2**70, -(2**70), 10**30, 1e308, 5e-324]
)
ODD_TEXTS = (
    *(
        "",
        " ",
        "null",
        "true",
        "0x10",
        "1e3",
        "1_1",
        "nan",
        "A,B",
        "A;B",
        "a b",
        "Zürich",
        "Zu\u0308rich",
        "A#1",
        "a{b",
    ),
    *(
        "[",
        "]",
        "${x}",
        "${oc.env:HOME}",
        "'",
        '"',
        "\\",
        "\\x00",
        "=cmd|x",
        "..",
        "/",
        "~",
        "-1",
        "\u202e",
        "😀",
        "%s",
    ),
)
TEXTS = st.one_of(st.sampled_from(ODD_TEXTS), st.text(max_size=12))
SCALARS = st.one_of(NUMBERS, TEXTS, st.booleans(), st.none(), st.integers(), st.floats())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)


@st.composite
def damaged_bytes(draw, seed):
    """Bytes of a valid file after up to three accidents: flips, cuts, repeats, insertions, zeros."""
    content = bytearray(seed)
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["flip", "cut", "end", "insert", "repeat", "zero"]))
        start = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(1, 64))
        if kind == "flip" and content:
            content[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[start : start + length]
        elif kind == "end":
            del content[start:]
        elif kind == "insert":
            content[start:start] = draw(st.binary(max_size=16))
        elif kind == "repeat":
            content[start:start] = content[start : start + length]
        else:
            content[start : start + length] = bytes(len(content[start : start + length]))
    return bytes(content)


@st.composite
def damaged_text(draw, seed, separators=","):
    """A table of text after accidents to its fields and lines, or to its bytes."""
    lines = [line.split(separators[0]) for line in seed.splitlines()]
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["field", "swap", "drop", "repeat", "number", "shuffle"]))
        column = draw(st.integers(0, max(0, len(lines[row]) - 1)))
        if kind == "field" and lines[row]:
            lines[row][column] = draw(TEXTS)
        elif kind == "number" and lines[row]:
            lines[row][column] = str(draw(NUMBERS))
        elif kind == "swap":
            lines[row].reverse()
        elif kind == "drop" and len(lines) > 1:
            del lines[row]
        elif kind == "repeat":
            lines.insert(row, list(lines[row]))
        elif kind == "shuffle":
            lines = draw(st.permutations(lines))
    separator, end = draw(st.sampled_from([*separators, ";", "\t"])), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    content = end.join(separator.join(line) for line in lines).encode(encoding, errors="replace")
    return draw(damaged_bytes(content)) if draw(st.booleans()) else content


@st.composite
def damaged_mapping(draw, seed):
    """Nested plain values after up to three of them were replaced, removed or added to."""
    content = _copy(seed)
    for _ in range(draw(st.integers(1, 3))):
        place = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and draw(st.booleans()):
                place = inner
                continue
            kind = draw(st.sampled_from(["replace", "replace", "number", "remove", "add"]))
            if kind == "remove":
                del place[key]
            elif kind == "add" and isinstance(place, dict):
                place[draw(TEXTS)] = draw(VALUES)
            else:
                place[key] = draw(NUMBERS if kind == "number" else VALUES)
            break
    return content


def _copy(value):
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    return [_copy(each) for each in value] if isinstance(value, list | tuple) else value
