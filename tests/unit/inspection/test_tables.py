"""The console: tables that fit a terminal, and plain columns with nothing cut elsewhere."""

import io
import json

import inspection_models as models
import keras
import pytest
from rich.console import Console

from mpt import report
from mpt.console import rich_console
from mpt.inspection.inspection import inspect
from mpt.inspection.tables import show

L = keras.layers
LONG_NAME = "a_" + "very_" * 20 + "long_name"


def plain(inspection, **arguments):
    stream = io.StringIO()
    show(inspection, rich_console(stream), **arguments)
    return stream.getvalue()


def terminal(inspection, width=100):
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=True, width=width, color_system=None, markup=False
    )
    show(inspection, console)
    return stream.getvalue()


@pytest.fixture
def attention(inspected):
    return inspect(inspected(models.attention, models.SEQUENCES))


@pytest.fixture
def opaque(inspected):
    def builder():
        return models.chain(
            models.UsesModule(name="module"),
            models.UsesFunction(name="compiled"),
            L.Dense(16, name=LONG_NAME),
        )

    return inspect(inspected(builder, models.ROWS))


def test_plain_columns_hold_every_number_in_full(attention):
    text = plain(attention)
    assert "\x1b" not in text
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert lines["path"] == [
        *("path", "class", "variable", "compute", "output", "shape", "parameters"),
        *("forward_flops", "activation_bytes", "source"),
    ]
    assert lines["up"] == [
        *("up", "Dense", "float32", "float16", "float16", "4x6x32"),
        *(str(16 * 32 + 32), str(2 * 6 * 16 * 32), str(4 * 6 * 32 * 2), "global"),
    ]
    assert "attention_multiplies_first  mha\n" in text
    assert 'to do: "precision.overrides=[{match:mha,policy:float32}]"' in text


def test_nothing_is_cut_where_no_terminal_is(opaque):
    text = plain(opaque)
    (line,) = [each for each in text.splitlines() if each.startswith(LONG_NAME)]
    assert line.split()[-1] == "global"
    row = next(each for each in text.splitlines() if each.startswith("module"))
    assert "not measured" in row
    assert "module: reads 1 variables" in text


@pytest.mark.parametrize("width", [80, 100])
def test_a_terminal_s_table_fits(attention, opaque, width):
    for inspection in (attention, opaque):
        lines = terminal(inspection, width).splitlines()
        wide = [line for line in lines if len(line.rstrip()) > width]
        assert all("to do: " in line for line in wide)  # whole, to be copied


def test_a_terminal_s_table_shows_nesting_and_what_is_not_known(attention, opaque):
    text = terminal(attention)
    assert "  query" in text
    assert "-: not called" in text
    assert "?: not measured" not in text
    assert "?: not measured" in terminal(opaque)


def test_a_sound_model_says_so(inspected):
    inspection = inspect(inspected(models.cnn, models.IMAGES))
    assert plain(inspection).rstrip().endswith("findings: none")
    assert plain(inspection, quiet=True) == "findings: none\n"


def test_totals_are_those_of_the_columns(attention):
    text = plain(attention)
    assert f"{attention.parameters:,}" in text
    assert "mixed_float16 (chosen)" in text
    assert "99.8% of it in 16 bits" in text or "of it in 16 bits" in text


def test_json_holds_plain_values(opaque):
    values = json.loads(json.dumps(report.encode(opaque.as_json())))
    assert {"layers", "totals", "findings", "precision", "opaque"} <= set(values)
    assert {"path", "class", "source", "forward_flops"} <= set(values["layers"][0])
    assert {each["path"] for each in values["opaque"]} == {"module", "compiled"}
