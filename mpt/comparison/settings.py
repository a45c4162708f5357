"""A configuration as flat keys, and the few of them that tell groups apart."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpt.schema import MAIN_KEYS

# They name a run, or say where it came from; none changes what it computes.
IGNORED = ("seed", "name", "run_dir", "resume", "recipe", "published")
# Sections whose main key is told by its value alone: "cnn mixed_float16".
_BARE = ("model", "dataset", "precision", "optimizer")
# In a label the first are said first; precision last, as what is mostly compared.
_ORDER = ("model", "dataset", "optimizer", "batch_size", "loss_scale")

_OVERRIDES = "precision.overrides"

Settings = dict[str, Any]


def flatten(config: Mapping[str, Any]) -> Settings:
    """Dotted keys and their values, without those ignored and those that are empty.

    A list of mappings has keys of its own: "trainer.callbacks[0].patience".

    Empty (null, [] or {}) is as good as absent: a key that a newer version added must not set its
    runs apart from older ones.
    """
    flat: Settings = {}

    def walk(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            for name, child in value.items():
                walk(child, f"{key}.{name}")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                walk(item, f"{key}[{index}]")
        elif value is not None and value != []:
            flat[key] = value

    for name, value in config.items():
        if name not in IGNORED:
            walk(value, name)
    return flat


def text(value: Any) -> str:
    """A value as one writes it on the command line."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def section(key: str) -> str:
    """The group of the configuration that a key belongs to, or the key itself."""
    return key.split(".", 1)[0]


def differing(all_settings: Sequence[Settings]) -> list[str]:
    """Keys in which the settings differ, by name."""
    keys = {key for settings in all_settings for key in settings}
    return sorted(k for k in keys if len({text(s.get(k)) for s in all_settings}) > 1)


def labels(all_settings: Sequence[Settings], policies: Sequence[str]) -> list[str]:
    """The shortest names that tell the settings apart.

    Sections are taken while they tell more groups apart: the precision first, then those that
    people mostly vary, then the others. Settings that are equal keep equal names.

    Args:
        policies: of each, the name of its precision where that alone is told.
    """
    varied = differing(all_settings)
    sections = sorted({section(key) for key in varied}, key=_rank)
    count = len(all_settings)
    chosen: dict[str, list[str]] = {}
    told = [""] * count
    for name in sections:
        keys = [k for k in varied if section(k) == name and not k.startswith(_OVERRIDES)]
        texts = _section_texts(name, keys, all_settings)
        if name == "precision":
            texts = _with_policy(texts, policies)
            if any(key.startswith(_OVERRIDES) for key in varied):
                texts = _with_overrides(texts, all_settings)
        both = [f"{before}|{after}" for before, after in zip(told, texts, strict=True)]
        if len(set(both)) > len(set(told)):
            chosen[name], told = texts, both
    if "precision" not in chosen:
        chosen["precision"] = list(policies) if not chosen else [""] * count
    order = sorted(chosen, key=lambda name: (name == "precision", _rank(name)))
    return [" ".join(filter(None, (chosen[name][i] for name in order))) for i in range(count)]


def _rank(name: str) -> tuple[int, str]:
    if name == "precision":
        return (-1, name)
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)


def _section_texts(name: str, keys: list[str], all_settings: Sequence[Settings]) -> list[str]:
    """Of each of the settings, the words that tell this section's values apart."""
    main = MAIN_KEYS.get(name)
    rest = sorted(
        (k for k in keys if k != main),
        key=lambda k: (-len({text(s.get(k)) for s in all_settings}), k),
    )
    wanted = len({tuple(text(s.get(k)) for k in keys) for s in all_settings})
    words: list[list[str]] = [[] for _ in all_settings]
    if main is not None and (main in keys or name == "precision"):
        for said, settings in zip(words, all_settings, strict=True):
            value = text(settings.get(main))
            said.append(value if name in _BARE else f"{name}={value}")
    last = [key.rsplit(".", 1)[-1] for key in keys]
    short = {k: s if last.count(s) == 1 else k for k, s in zip(keys, last, strict=True)}
    for key in rest:
        known = len({tuple(said) for said in words})
        if known == wanted:
            break
        longer = [
            [*said, f"{short[key]}={text(settings.get(key))}"]
            for said, settings in zip(words, all_settings, strict=True)
        ]
        if len({tuple(said) for said in longer}) > known:
            words = longer
    return [" ".join(said) for said in words]


def _with_policy(texts: Iterable[str], policies: Sequence[str]) -> list[str]:
    """ "auto" with what it came to: "auto (mixed_bfloat16)"."""
    found = []
    for said, policy in zip(texts, policies, strict=True):
        first, space, rest = said.partition(" ")
        shown = f"auto ({policy})" if first == "auto" and policy != "auto" else first
        found.append(f"{shown}{space}{rest}")
    return found


def _with_overrides(texts: Iterable[str], all_settings: Sequence[Settings]) -> list[str]:
    """ "mixed_float16" with its rules: "mixed_float16, float32: conv2d, energy"."""
    return [
        ", ".join(filter(None, (said, _overrides_text(settings))))
        for said, settings in zip(texts, all_settings, strict=True)
    ]


def _overrides_text(settings: Settings) -> str:
    """The patterns of all rules by their policies, in the order of the rules; empty without any."""
    rules: dict[str, dict[str, str]] = {}
    for key, value in settings.items():
        place, _, field = key.rpartition(".")
        if place.startswith(f"{_OVERRIDES}["):
            rules.setdefault(place, {})[field] = text(value)
    patterns: dict[str, list[str]] = {}
    for rule in rules.values():
        patterns.setdefault(rule.get("policy", "?"), []).append(rule.get("match", "?"))
    return "; ".join(f"{policy}: {', '.join(found)}" for policy, found in patterns.items())
