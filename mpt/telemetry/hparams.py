"""The run as one session of TensorBoard's HParams page: its settings, and what came of them.

Tags, besides the monitored one and loss_scale/skipped_steps, which are of the training:
    report/examples_per_second: as in report.json; written at the run's end, as the next ones are.
    report/device_peak_mib: most device memory that tensors held, MiB (2^20 bytes).
    report/host_rss_peak_mib: largest resident set of the process, MiB; where no device tells.

The page shows a session's last value of each. A run that was killed has those of its training.
The format is that of tensorboard/plugins/hparams (plugin_data.proto, api.proto).
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata

from mpt.report import RunReport
from mpt.schema import MAIN_KEYS
from mpt.telemetry.tensorboard import Board, as_text

MIB = 2**20
SKIPPED = "loss_scale/skipped_steps"
THROUGHPUT = "report/examples_per_second"
DEVICE_MEMORY = "report/device_peak_mib"
HOST_MEMORY = "report/host_rss_peak_mib"
# What names the run and its files, or says what is written: nothing that training depends on.
LEFT_OUT = ("name", "run_dir", "resume", "recipe", "published", "telemetry")

Value = bool | float | str


def begin(board: Board, result: RunReport, overrides: str = "[]") -> None:
    """Write the session's settings, and the page's columns.

    Args:
        result: the report of a run that has not begun to train.
        overrides: YAML list of the command line's overrides; the page shows these columns first.
    """
    values = settings(result)
    start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in values.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    given = _given(overrides)
    experiment = api_pb2.Experiment(
        hparam_infos=[_column(name, value, name in given) for name, value in values.items()],
        metric_infos=[
            api_pb2.MetricInfo(
                name=api_pb2.MetricName(tag=tag), display_name=name, description=description
            )
            for tag, name, description in _metrics(result)
        ],
    )
    _write(board, hparams_metadata.EXPERIMENT_TAG, experiment=experiment)
    _write(board, hparams_metadata.SESSION_START_INFO_TAG, session_start_info=start)
    board.flush()


def end(board: Board, result: RunReport) -> None:
    """Write what came of the session, from the run's complete report."""
    memory = result.memory
    values = {
        THROUGHPUT: result.throughput.examples_per_second,
        DEVICE_MEMORY: _mib(memory.device_peak_bytes),
        HOST_MEMORY: _mib(memory.host_rss_peak_bytes) if _on_host(result) else None,
    }
    board.scalars(result.training.steps or 0, values)
    succeeded = result.status in ("completed", "stopped_early")
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    _write(board, hparams_metadata.SESSION_END_INFO_TAG, session_end_info=info)
    board.flush()


def settings(result: RunReport) -> dict[str, Value]:
    """The configuration as flat keys, with what was chosen in the place of `auto` and `max`.

    A setting that is null is left out, and so is a group's builder of ours, which its name tells;
    a list is its JSON text.
    """
    config = {key: value for key, value in result.config.items() if key not in LEFT_OUT}
    values = dict(_flatten(config))
    requested, policy = result.precision.requested, result.precision.policy
    chosen = {
        "precision.policy": policy if requested == "auto" else requested,
        "loss_scale.mode": result.loss_scale.mode,
        "batch_size": result.training.batch_size,
    }
    return values | {key: value for key, value in chosen.items() if value is not None}


def _flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Value]]:
    for key, value in node.items():
        name = as_text(f"{prefix}{key}")
        if key == "_target_" and str(value).startswith("mpt."):
            continue
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name}.")
        elif isinstance(value, bool | int):
            yield name, value
        elif isinstance(value, float):
            # JSON, in which the page gets its values, has no NaN.
            yield name, value if math.isfinite(value) else str(value)
        elif isinstance(value, str):
            yield name, as_text(value)
        elif value is not None:
            yield name, as_text(json.dumps(value, default=str))


def _given(overrides: str) -> set[str]:
    """Settings that the command line names."""
    keys = {str(word).lstrip("+~").partition("=")[0] for word in yaml.safe_load(overrides) or ()}
    return {MAIN_KEYS.get(key.partition("@")[0], key) for key in keys}


def _column(name: str, value: Value, given: bool) -> api_pb2.HParamInfo:
    """A column without a domain: other runs' values are not known here, and must stay visible."""
    if isinstance(value, bool):
        kind = api_pb2.DATA_TYPE_BOOL
    else:
        kind = api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64
    return api_pb2.HParamInfo(name=name, type=kind, differs=given)


def _metrics(result: RunReport) -> list[tuple[str, str, str]]:
    """Tag, heading and description of each metric's column."""
    monitored = as_text(str(result.config.get("monitor", "train/loss")))
    host = (HOST_MEMORY, "peak host memory (MiB)", "Largest resident set of the process.")
    device = (DEVICE_MEMORY, "peak device memory (MiB)", "Most that tensors held on the device.")
    return [
        (monitored, monitored, "The monitored tag, after the last step."),
        (THROUGHPUT, "examples/s", "Examples trained on a second, after the warm-up."),
        host if _on_host(result) else device,
        (SKIPPED, "skipped steps", "Steps skipped for a non-finite gradient."),
    ]


def _on_host(result: RunReport) -> bool:
    """A CPU has no allocator that tells its peak."""
    return result.device.kind != "gpu"


def _mib(size: int | None) -> float | None:
    return None if size is None else size / MIB


def _write(board: Board, tag: str, **content: Any) -> None:
    data = plugin_data_pb2.HParamsPluginData(**content)
    board.metadata(tag, hparams_metadata.create_summary_metadata(data))
