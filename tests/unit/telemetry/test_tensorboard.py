"""Event files, read back by TensorBoard's own readers."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.util import tensor_util

from mpt.telemetry.tensorboard import DASHBOARD, Board, read_tags

TAGS = [
    "train/loss",
    "train/accuracy",
    "validation/loss",
    "validation/accuracy",
    "throughput/examples_per_second",
    "throughput/step_time_ms",
    "throughput/data_wait_fraction",
    "memory/device_peak_bytes",
    "memory/device_in_use_bytes",
    "memory/host_rss_bytes",
    "loss_scale/scale",
    "loss_scale/skipped_steps",
    "loss_scale/skip_rate",
    "loss_scale/consecutive_skips",
    "gradients/global_norm",
    "gradients/max_abs",
    "gradients/headroom_bits",
    "gradients/zero_fraction",
    "gradients/subnormal_fraction",
    "compute/model_flops_per_second",
    "compute/utilization",
    "optimizer/learning_rate",
]


def load(folder) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_scalars_come_back_with_their_steps(tmp_path):
    with Board(tmp_path / "events") as board:
        board.scalars(50, {"train/loss": 0.5, "loss_scale/scale": 32768})
        board.scalars(100, {"train/loss": 0.25})
    events = load(tmp_path / "events").Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == [(50, 0.5), (100, 0.25)]
    assert events[1].wall_time >= events[0].wall_time > 1.7e9
    assert read_tags(tmp_path / "events") == {"train/loss", "loss_scale/scale"}


def test_non_finite_values_are_written_as_they_are_and_none_is_left_out(tmp_path):
    with Board(tmp_path) as board:
        board.scalars(1, {"nan": math.nan, "inf": -math.inf, "huge": 1e300, "none": None})
        board.scalars(2, {"none": None})
    reader = load(tmp_path)
    assert math.isnan(reader.Scalars("nan")[0].value)
    assert reader.Scalars("inf")[0].value == -math.inf
    assert reader.Scalars("huge")[0].value == math.inf
    assert read_tags(tmp_path) == {"nan", "inf", "huge"}


def test_what_was_flushed_is_readable_while_the_run_goes_on(tmp_path):
    board = Board(tmp_path)
    board.scalars(1, {"train/loss": 1.0})
    board.flush()
    assert read_tags(tmp_path) == {"train/loss"}
    board.close()
    board.close()


def test_two_boards_of_one_folder_do_not_share_a_file(tmp_path):
    with Board(tmp_path) as first, Board(tmp_path) as second:
        assert first.path != second.path


def test_the_layout_is_one_that_tensorboard_reads_and_draws_every_tag(tmp_path):
    with Board(tmp_path) as board:
        board.layout()
    (event,) = load(tmp_path).Tensors(layout_metadata.CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == list(DASHBOARD)
    patterns = [
        pattern
        for category in layout.category
        for chart in category.chart
        for pattern in chart.multiline.tag
    ]
    for tag in TAGS:
        assert sum(bool(re.match(pattern, tag)) for pattern in patterns) == 1, tag


def test_text_is_shown_by_the_text_page(tmp_path):
    with Board(tmp_path) as board:
        board.text("run/precision", "**float32**: é")
    reader = load(tmp_path)
    (event,) = reader.Tensors("run/precision")
    assert event.tensor_proto.string_val[0].decode() == "**float32**: é"
    assert reader.SummaryMetadata("run/precision").plugin_data.plugin_name == "text"


def test_text_may_hold_what_is_no_utf_8(tmp_path):
    with Board(tmp_path) as board:
        board.text("run/config", "path: \udcff")
    (event,) = load(tmp_path).Tensors("run/config")
    assert event.tensor_proto.string_val[0] == b"path: ?"


def test_a_histogram_is_shown_by_the_histograms_page_with_its_steps(tmp_path):
    buckets = np.array([[-27, -26, 3], [-26, -25, 0], [-25, -24, 2**40 + 1]], "float64")
    with Board(tmp_path) as board:
        board.histogram("gradients/exponents/a/b", 500, buckets, "*counts*")
        board.histogram("gradients/exponents/a/b", 1000, buckets[:1])
    reader = load(tmp_path)
    first, second = reader.Tensors("gradients/exponents/a/b")
    assert (first.step, second.step) == (500, 1000)
    np.testing.assert_array_equal(tensor_util.make_ndarray(first.tensor_proto), buckets)
    assert tensor_util.make_ndarray(second.tensor_proto).shape == (1, 3)
    metadata = reader.SummaryMetadata("gradients/exponents/a/b")
    assert metadata.plugin_data.plugin_name == "histograms"
    assert metadata.summary_description == "*counts*"


def test_no_folder_has_no_tags(tmp_path):
    assert read_tags(tmp_path / "nothing") == set()


@pytest.mark.parametrize("module", ["tensorflow", "keras"])
def test_writing_does_not_import(module, tmp_path):
    code = (
        "import sys; from mpt.telemetry.tensorboard import Board; b = Board(sys.argv[1]);"
        "b.layout(); b.text('a', 'b'); b.scalars(1, {'c': 1});"
        "import numpy; b.histogram('d', 1, numpy.zeros((2, 3))); b.close();"
        f"sys.exit({module!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 0


def test_a_file_comes_after_those_that_are_there_whatever_the_clock_says(tmp_path):
    later = tmp_path / f"events.out.tfevents.{2**62}.host.1"
    later.touch()
    with Board(tmp_path) as board:
        assert sorted([board.path, later]) == [later, board.path]
