"""The code's own shape, looked at without running it.

Pieces are short enough to be read alone, imports go one way, and a test lies where its module is.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60
NAMELESS = {"utils", "util", "helpers", "helper", "misc", "common"}
UNIT = ROOT / "tests" / "unit"


def modules(*packages: str) -> dict[str, Path]:
    """Dotted name -> file, of every module of the packages; a package is its `__init__`."""
    found = {}
    for package in packages:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def long_functions(source: str, most: int) -> list[tuple[str, int]]:
    """Name and lines, from `def` to the end, of each function that has more than `most`."""
    return [
        (node.name, node.end_lineno - node.lineno + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > most
    ]


def imports(source: str, module: str, is_package: bool) -> set[str]:
    """Dotted names that a module imports, anywhere in it but for types alone.

    Of `from a import b` both a.b and a: b may be a module, or lie in a.
    """
    found: set[str] = set()
    for node in executed(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            base = base[: len(base) - node.level + is_package] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            found |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
    return found


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node`, without what `if TYPE_CHECKING` holds."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from executed(other)
            continue
        yield child
        yield from executed(child)


def import_graph(sources: dict[str, tuple[str, bool]]) -> dict[str, set[str]]:
    """Module -> the others of `sources` that it imports.

    A package whose submodule is named is not taken for an import of the package, where every name
    that is taken from it is such a submodule.
    """
    graph = {}
    for module, (source, is_package) in sources.items():
        named = imports(source, module, is_package)
        known = {name for name in named if name in sources and name != module}
        graph[module] = {
            name
            for name in known
            if (below := [other for other in named if other.rpartition(".")[0] == name]) == []
            or any(other not in sources for other in below)
        }
    return graph


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The modules of each circle of imports, sorted; those that reach one another."""
    reached = {module: reachable(graph, module) for module in graph}
    circles = {
        tuple(sorted(other for other in reached[module] if module in reached[other]))
        for module in graph
        if module in reached[module]
    }
    return [list(circle) for circle in sorted(circles)]


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for other in graph.get(waiting.pop(), set()) - found:
            found.add(other)
            waiting.append(other)
    return found


def mirrors(test: Path, names: set[str]) -> bool:
    """Whether a test lies where its module does: tests/unit/PACKAGE/test_MODULE.py.

    What it looks at may follow the module's name; the package's name may come before it, for no two
    test files have one name, or stand instead of it, for what several modules do together.

    Args:
        test: path below tests/unit.
        names: of all modules, dotted.
    """
    *folders, file = test.with_suffix("").parts
    package = folders if folders[:1] == ["bench"] else ["mpt", *folders]
    if ".".join(package) not in names:
        return False
    above = ".".join(package) + "."
    inside = {name.removeprefix(above) for name in names if name.startswith(above)}
    # A subpackage's tests lie in a folder of its own.
    own = {name for name in inside if not any(other.startswith(f"{name}.") for other in inside)}
    words = file.removeprefix("test_")
    allowed = own | {package[-1]} if folders else own
    return any(words == name or words.startswith(f"{name}_") for name in allowed)


def test_a_module_can_be_read_at_one_sitting() -> None:
    lengths = {
        name: len(file.read_text().splitlines()) for name, file in modules("mpt", "bench").items()
    }
    assert len(lengths) > 250
    assert {name: n for name, n in lengths.items() if n > LONGEST_MODULE} == {}


def test_a_function_can_be_seen_at_once() -> None:
    found = {
        f"{name}.{function}": lines
        for name, file in modules("mpt", "bench").items()
        for function, lines in long_functions(file.read_text(), LONGEST_FUNCTION)
    }
    assert found == {}


def test_imports_go_in_no_circle() -> None:
    sources = {
        name: (file.read_text(), file.name == "__init__.py")
        for name, file in modules("mpt").items()
    }
    graph = import_graph(sources)
    assert "mpt.errors" in graph["mpt.config"], "the graph is empty"
    assert cycles(graph) == []


def test_a_module_has_a_name_of_what_it_is_about() -> None:
    names = {name.rpartition(".")[2] for name in modules("mpt", "bench")}
    assert names & NAMELESS == set()


def test_a_test_lies_where_its_module_does() -> None:
    names = set(modules("mpt", "bench"))
    tests = [file.relative_to(UNIT) for file in UNIT.rglob("test_*.py")]
    about_all = {Path(__file__).relative_to(UNIT)}
    assert len(tests) > 100
    astray = sorted(str(test) for test in {*tests} - about_all if not mirrors(test, names))
    assert astray == []


def test_test_files_have_names_of_their_own() -> None:
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


class TestWhatIsLookedFor:
    """That each of these would be found."""

    def test_a_long_function_with_its_docstring_and_within_a_class(self) -> None:
        short = "def short():\n    return 1\n"
        method = (
            'class A:\n    async def long(self):\n        """One.\n        """\n        return 1\n'
        )
        assert long_functions(short + method, 3) == [("long", 4)]
        assert long_functions(short + method, 4) == []

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("import a.b", {"a.b"}),
            ("def f():\n    from a import b", {"a", "a.b"}),
            ("from . import b", {"p", "p.b"}),
            ("from .b import c", {"p.b", "p.b.c"}),
            ("if TYPE_CHECKING:\n    import a", set()),
            ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", {"b"}),
            ("try:\n    import a\nexcept ImportError:\n    pass", {"a"}),
        ],
    )
    def test_imports(self, source: str, expected: set[str]) -> None:
        assert imports(source, "p.m", is_package=False) == expected

    def test_relative_imports_of_a_package(self) -> None:
        assert imports("from .b import c", "p", is_package=True) == {"p.b", "p.b.c"}

    def test_a_circle_also_by_way_of_a_function_and_a_package(self) -> None:
        sources = {
            "p": ("from p.a import one", True),
            "p.a": ("from p import b", False),
            "p.b": ("def f():\n    import p.c", False),
            "p.c": ("from p import a, b", False),
            "p.d": ("from p import a", False),
        }
        assert cycles(import_graph(sources)) == [["p.a", "p.b", "p.c"]]
        sources["p.c"] = ("from p import one", False)  # what the package itself has
        assert cycles(import_graph(sources)) == [["p", "p.a", "p.b", "p.c"]]
        sources["p.c"] = ("if TYPE_CHECKING:\n    from p import a", False)
        assert cycles(import_graph(sources)) == []

    @pytest.mark.parametrize(
        ("test", "expected"),
        [
            ("a/test_x.py", True),
            ("a/test_x_when_it_is_late.py", True),
            ("a/test_a_x.py", True),
            ("a/test_a.py", True),
            ("test_alone.py", True),
            ("bench/test_speed.py", True),
            ("bench/test_bench_verdicts.py", True),
            ("test_x.py", False),
            ("test_a.py", False),
            ("a/test_alone.py", False),
            ("b/test_x.py", False),
            ("a/test_xy.py", False),
            ("test_speed.py", False),
        ],
    )
    def test_where_a_test_lies(self, test: str, expected: bool) -> None:
        names = {"mpt", "mpt.a", "mpt.a.x", "mpt.alone", "bench", "bench.speed"}
        assert mirrors(Path(test), names) is expected
