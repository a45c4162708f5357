"""The JSON Schema of `report.json`, made from the dataclasses.

`python -m mpt.report.schema` writes it to `run_report.schema.json` beside this module.
"""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mpt.report.json_values import NON_FINITE
from mpt.report.run_report import RunReport

PATH = Path(__file__).with_name("run_report.schema.json")


def json_schema() -> dict[str, Any]:
    """The schema, of draft 2020-12. It admits further keys, as readers must."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Report of a run of mpt",
        "description": "null: not measured. Non-finite numbers are strings.",
        **_object(RunReport),
        "$defs": {"number": {"anyOf": [{"type": "number"}, {"enum": list(NON_FINITE)}]}},
    }


def _object(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    properties = {}
    for field in fields(kind):
        schema = field.metadata["schema"] or _type(hints[field.name])
        properties[field.name] = {"description": field.metadata["help"], **schema}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _type(hint: Any) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if origin in (UnionType, Union):
        return {"anyOf": [_type(argument) for argument in arguments]}
    if is_dataclass(hint):
        return _object(hint)
    if origin is list:
        return {"type": "array", "items": _type(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    if hint is float:
        return {"$ref": "#/$defs/number"}
    names = {int: "integer", str: "string", bool: "boolean", type(None): "null"}
    return {"type": names[hint]}


if __name__ == "__main__":
    PATH.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
