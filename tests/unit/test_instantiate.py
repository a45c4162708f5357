"""Only admitted code runs, with arguments that it takes."""

import sys

import pytest

from mpt.errors import ConfigurationError
from mpt.instantiate import call, check_allowed, check_arguments, load_function, resolve

MINE = """
from dataclasses import dataclass
from os import system

def scale(*, factor: float = 1.0, shape: tuple[int, ...] = (), name: str = "x"):
    return factor, shape, name

def anything(**arguments):
    return arguments

@dataclass
class Box:
    content: object = None
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's own in the working folder, importable and as a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_models.py").write_text(MINE)
    yield "my_models"
    sys.modules.pop("my_models", None)


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("os.system", "leave it out: os runs programs or changes files"),
        ("importlib.util.find_spec", "leave it out: importlib.util runs programs"),
        ("my_models.scale", "if you trust it, add: --allow my_models"),
        ("oslo.thing", "if you trust it, add: --allow oslo"),
    ],
)
def test_no_error_says_how_to_admit_what_runs_programs(path, remedy):
    with pytest.raises(ConfigurationError) as caught:
        call({"_target_": path}, where="model", allow=())
    assert caught.value.remedy.startswith(remedy)


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "pathlib.Path.write_text",
        "shutil.copy",
        "builtins.eval",
        "mpt.runner.run",
        "mpt.models_of_mine.build",
        "mpt.data._private",
        "mpt.instantiate.call",
        "keras.utils.get_file",
        "keras.saving.load_model",
        "keras.config.enable_unsafe_deserialization",
        "not a path",
        "",
        None,
        3,
    ],
)
def test_a_target_outside_the_allowed_modules_is_refused_without_its_import(path, monkeypatch):
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imported {name}"))
    for act in (
        lambda: call({"_target_": path}, where="model", allow=()),
        lambda: check_allowed({"_target_": path}, where="model", allow=()),
        lambda: call({"x": 1, "_target_": path}, where="model", allow=("mine",)),
    ):
        with pytest.raises(ConfigurationError) as caught:
            act()
        assert caught.value.where == "model._target_"


@pytest.mark.parametrize(
    "path",
    [
        "mpt.models.cnn.Sequence",  # collections.abc, by the name of a module of ours
        "mpt.optim.keras.utils.get_file",
        "mpt.optim.math.sqrt",
        "mpt.optim.inspect.getsource",
        "keras.optimizers.deserialize",  # a function of Keras that imports what it is told
        "keras.losses.get",
    ],
)
def test_a_name_of_ours_that_leads_elsewhere_is_refused(path):
    with pytest.raises(ConfigurationError):
        call({"_target_": path}, where="model", allow=())


def test_the_error_prints_the_exact_flag_to_add(mine):
    with pytest.raises(ConfigurationError, match=r"--allow my_models$"):
        call({"_target_": "my_models.scale"}, where="model", allow=())
    assert "my_models" not in sys.modules
    assert call({"_target_": "my_models.scale"}, where="model", allow=("my_models",)) == (
        1.0,
        (),
        "x",
    )


def test_what_an_admitted_module_merely_imported_needs_its_own_admission(mine):
    node = {"_target_": "my_models.system", "command": "true"}
    with pytest.raises(ConfigurationError, match="leave it out: posix"):
        call(node, where="model", allow=("my_models",))


def test_admission_of_a_module_is_not_of_one_with_a_longer_name(mine):
    with pytest.raises(ConfigurationError, match="--allow my_models"):
        call({"_target_": "my_models.scale"}, where="model", allow=("my_mod", "my"))


def test_nested_nodes_are_guarded_too(mine):
    node = {"_target_": "my_models.Box", "content": [{"a": {"_target_": "os.system"}}]}
    with pytest.raises(ConfigurationError) as caught:
        call(node, where="model", allow=("my_models",))
    assert caught.value.where == "model.content[0].a._target_"
    with pytest.raises(ConfigurationError):
        check_allowed(node, where="model", allow=("my_models",))


def test_nested_nodes_are_called_first(mine):
    node = {"_target_": "my_models.Box", "content": {"_target_": "my_models.scale", "factor": 2}}
    assert call(node, where="model", allow=("my_models",)).content == (2, (), "x")


class TestArguments:
    def build(self, allow=("my_models",), target="scale", supplied=None, **arguments):
        node = {"_target_": f"my_models.{target}", **arguments}
        return call(node, where="model", allow=allow, **(supplied or {}))

    def test_unknown_key_with_the_nearest(self, mine):
        with pytest.raises(ConfigurationError) as caught:
            self.build(factr=2)
        assert (caught.value.where, caught.value.suggestion) == ("model.factr", "factor")

    @pytest.mark.parametrize(
        ("key", "value"), [("factor", "x"), ("factor", True), ("shape", [1, "a"]), ("shape", 1)]
    )
    def test_wrong_type(self, mine, key, value):
        with pytest.raises(ConfigurationError, match="wrong type") as caught:
            self.build(**{key: value})
        assert caught.value.where == f"model.{key}"

    def test_a_list_becomes_the_tuple_that_is_declared(self, mine):
        assert self.build(shape=[8, 8])[1] == (8, 8)

    def test_supplied_arguments_go_where_they_are_taken_and_yield_to_the_node_s(self, mine):
        supplied = {"shape": (3,), "classes": 10}
        assert self.build(supplied=supplied)[1] == (3,)
        assert self.build(supplied=supplied, shape=[4])[1] == (4,)
        assert self.build(supplied=supplied, shape=None) == (1.0, (3,), "x")
        assert self.build(target="anything", supplied=supplied, a=1) == {"a": 1}

    def test_a_label_is_left_out_where_it_is_not_taken(self, mine):
        assert self.build(target="Box", name="label").content is None


class TestFunctions:
    def test_a_file_needs_its_own_admission(self, mine, tmp_path):
        with pytest.raises(ConfigurationError, match=r"--allow my_models\.py$"):
            load_function("my_models.py:scale", allow=("my_models",))
        for entry in ("my_models.py", str(tmp_path / "my_models.py"), "./my_models.py"):
            assert load_function("my_models.py:scale", allow=(entry,))(factor=3)[0] == 3

    def test_a_module(self, mine):
        assert load_function("my_models:scale", allow=("my_models",))(factor=3)[0] == 3

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ("my_models.py:scal", "no function"),
            ("my_models.py:system", "leave it out: posix"),
            ("my_models.py", "names no function"),
            ("my_models.py:scale.__globals__", "names no function"),
            (":scale", "names no function"),
            ("absent.py:scale", "no file"),
            ("absent_module:scale", "cannot be imported"),
        ],
    )
    def test_what_cannot_be_loaded(self, mine, spec, words):
        with pytest.raises(ConfigurationError, match=words):
            load_function(spec, allow=("my_models.py", "absent.py", "absent_module"))

    def test_a_file_that_does_not_parse(self, mine, tmp_path):
        (tmp_path / "broken.py").write_text("def f(:\n")
        with pytest.raises(ConfigurationError, match="cannot be imported"):
            load_function("broken.py:f", allow=("broken.py",))

    def test_a_node_s_function_is_loaded_under_the_same_permission(self, mine):
        node = {"_target_": "my_models.anything", "function": "my_models:scale"}
        assert call(node, where="model", allow=("my_models",))["function"]()[0] == 1.0
        with pytest.raises(ConfigurationError) as caught:
            call({**node, "function": "os:system"}, where="model", allow=("my_models",))
        assert caught.value.where == "model.function"


def test_early_check_finds_types_and_names_without_tensorflow():
    node = {"_target_": "mpt.models.cnn.build", "name": "cnn", "filters": 32}
    supplied = ("shape", "classes")
    check_arguments(node, where="model", supplied=supplied)
    with pytest.raises(ConfigurationError, match="wrong type"):
        check_arguments({**node, "filters": "many"}, where="model", supplied=supplied)
    with pytest.raises(ConfigurationError, match="unknown key"):
        check_arguments({**node, "filter": 3}, where="model", supplied=supplied)


def test_resolve_leaves_plain_values_and_calls_nodes():
    import keras

    value = ["accuracy", {"_target_": "keras.metrics.TopKCategoricalAccuracy", "k": 3}]
    name, metric = resolve(value, where="metrics", allow=())
    assert name == "accuracy"
    assert isinstance(metric, keras.metrics.TopKCategoricalAccuracy)
    assert resolve("auto", where="loss", allow=()) == "auto"


def test_keras_s_own_refusal_is_a_configuration_error():
    with pytest.raises(ConfigurationError) as caught:
        call({"_target_": "keras.callbacks.EarlyStopping", "patienc": 1}, where="c", allow=())
    assert caught.value.suggestion == "patience"
