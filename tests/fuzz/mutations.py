"""Ways in which a file, or what a file says, can come to be wrong."""

import copy
import os
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

FACTOR = int(os.environ.get("MPT_FUZZ", "1"))

# What no reader expects, of every type that JSON has.
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 10**400),
    *(0.0, -0.0, 0.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), -float("inf")),
    *("", "x", "NaN", "Infinity", "-1", "float16", "$array", "a\nb", "\x00", "\x1b[2J", "\ud800"),
    *("\N{SNOWMAN}" * 50, "../../etc/passwd", "x" * 10_000),
    *([], {}, [[]], [None], {"": None}, {"$array": 0}, {"$array": -1}, {"a": {"b": [1, "x"]}}),
)
odd = st.sampled_from(ODD).map(copy.deepcopy)
words = st.text(max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | odd,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(words, children, max_size=3),
    max_leaves=8,
)


def examples(few: int) -> Any:
    """A test's number of examples: `few`, or MPT_FUZZ times as many."""
    return settings(max_examples=few * FACTOR)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where each value lies within nested lists and mappings: keys and indices, from outside."""
    found = [here] if here else []
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    else:
        return found
    for key, child in children:
        found += paths(child, (*here, key))
    return found


@st.composite
def mutilated(draw: Any, whole: Any, values: Any = odd | plain, most: int = 3) -> Any:
    """`whole`, in which one to `most` values are others, missing, swapped or nested too deeply."""
    content = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, most))):
        everywhere = paths(content)
        if not everywhere:
            break
        *outer, last = draw(st.sampled_from(everywhere))
        node = content
        for key in outer:
            node = node[key]
        how = draw(st.sampled_from(("value", "value", "value", "drop", "swap", "wrap", "add")))
        if how == "value":
            node[last] = draw(values)
        elif how == "drop":
            del node[last]
        elif how == "wrap":
            for _ in range(draw(st.sampled_from((1, 2, 30)))):
                node[last] = [node[last]]
        elif how == "add" and isinstance(node, dict):
            node[draw(words)] = draw(values)
        elif how == "swap":
            other = draw(st.sampled_from(everywhere))
            node[last] = copy.deepcopy(_at(content, other)) if _has(content, other) else None
    return content


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _has(value: Any, path: tuple[Any, ...]) -> bool:
    try:
        _at(value, path)
    except (KeyError, IndexError, TypeError):
        return False
    return True


@st.composite
def damaged(draw: Any, whole: bytes) -> bytes:
    """The bytes of a file, some of which were flipped, lost, doubled, moved or put in between."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.sampled_from((1, 2, 8, 100, 4096)))
        how = draw(st.sampled_from(("flip", "cut", "lose", "double", "zero", "insert", "swap")))
        if how == "flip" and content:
            content[start] ^= draw(st.integers(1, 255))
        elif how == "cut":
            del content[start:]
        elif how == "lose":
            del content[start : start + length]
        elif how == "double":
            content[start:start] = content[start : start + length]
        elif how == "zero":
            content[start : start + length] = bytes(len(content[start : start + length]))
        elif how == "insert":
            content[start:start] = draw(st.binary(min_size=1, max_size=20))
        else:
            other = draw(st.integers(0, max(0, len(content) - 1)))
            piece = content[start : start + length]
            content[other : other + len(piece)] = piece
    return bytes(content)
