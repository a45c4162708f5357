"""What an import that fails is advised, beside what the distribution asks for."""

import re
import tomllib
from pathlib import Path

from mpt.doctor import findings, import_errors

ROOT = Path(__file__).resolve().parents[3]


def test_the_versions_that_are_advised_are_those_that_are_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {*project["dependencies"], *project["optional-dependencies"]["gpu"]}
    advised = {
        requirement
        for module in (findings, import_errors)
        for requirement in re.findall(
            r"'((?:tensorflow|keras)[^' ]*[<>=][^' ]*)'", Path(str(module.__file__)).read_text()
        )
    }
    assert len(advised) == 3
    assert advised <= asked
