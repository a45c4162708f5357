"""The sessions of the HParams page, read back by TensorBoard's own code for that page."""

import json
import math
import subprocess
import sys

import pytest
from tensorboard import context
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import (
    api_pb2,
    backend_context,
    get_experiment,
    hparams_plugin,
    list_session_groups,
    metadata,
    plugin_data_pb2,
)

from mpt import postmortem, report
from mpt.board.hparams import AllRunsHParamsPlugin
from mpt.report import RunReport
from mpt.telemetry import hparams
from mpt.telemetry.tensorboard import Board, read_tags

CONFIG = {
    "seed": 3,
    "name": "auto",
    "run_dir": "somewhere",
    "monitor": "validation/accuracy",
    "batch_size": 128,
    "model": {"name": "cnn", "_target_": "mpt.models.cnn.build", "filters": 32},
    "optimizer": {"name": "adam", "learning_rate": 0.001, "schedule": {"name": "constant"}},
    "precision": {"policy": "mixed_float16", "overrides": [{"match": "a", "policy": "float32"}]},
    "loss_scale": {"mode": "auto"},
    "trainer": {"steps": None, "smoke_checks": False},
    "telemetry": {"peak": True},
}
STATUSES = {
    "completed": api_pb2.STATUS_SUCCESS,
    "stopped_early": api_pb2.STATUS_SUCCESS,
    "diverged": api_pb2.STATUS_FAILURE,
    "oom": api_pb2.STATUS_FAILURE,
    "interrupted": api_pb2.STATUS_FAILURE,
    "failed": api_pb2.STATUS_FAILURE,
    "killed": api_pb2.STATUS_FAILURE,
}


def made(config=CONFIG, *, kind="cpu", status="completed", mode="dynamic") -> RunReport:
    result = RunReport("0", "name", ["mpt"], "2026-01-01T00:00:00Z", config)
    result.status = status
    result.device.kind = kind
    result.precision = report.Precision(requested="mixed_float16", policy="mixed_float16")
    result.loss_scale.mode = mode
    result.training = report.Training(steps=100, batch_size=config["batch_size"])
    result.throughput.examples_per_second = 12345.5
    result.memory = report.Memory(
        device_peak_bytes=3 * 2**20 if kind == "gpu" else None, host_rss_peak_bytes=5 * 2**19
    )
    return result


def write(folder, result, *, overrides="[]", ended=True):
    with Board(folder) as board:
        hparams.begin(board, result, overrides)
        board.scalars(50, {"validation/accuracy": 0.5, "loss_scale/skipped_steps": 1})
        board.scalars(100, {"validation/accuracy": 0.75, "loss_scale/skipped_steps": 2})
        if ended:
            hparams.end(board, result)


@pytest.fixture
def page(tmp_path):
    """`page()` is (experiment, sessions by run) as TensorBoard's page gets them."""

    def read(plugin=hparams_plugin.HParamsPlugin):
        multiplexer = plugin_event_multiplexer.EventMultiplexer()
        multiplexer.AddRunsFromDirectory(str(tmp_path)).Reload()
        provider = data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path))
        backend = plugin(base_plugin.TBContext(data_provider=provider))._context
        request = (context.RequestContext(), backend, "")
        experiment = get_experiment.Handler(*request, api_pb2.GetExperimentRequest()).run()
        asked = api_pb2.ListSessionGroupsRequest(
            allowed_statuses=[api_pb2.STATUS_UNKNOWN, *set(STATUSES.values())], slice_size=100
        )
        groups = list_session_groups.Handler(*request, asked).run().session_groups
        return experiment, {group.name: group for group in groups}

    return read


def values(group):
    return {each.name.tag: each.value for each in group.metric_values}


def plain(group):
    return {name: getattr(v, v.WhichOneof("kind")) for name, v in group.hparams.items()}


def test_a_session_has_its_settings_and_what_came_of_it(tmp_path, page):
    write(tmp_path / "0", made())
    _, sessions = page()
    assert values(sessions["0"]) == {
        "validation/accuracy": 0.75,
        "report/examples_per_second": 12345.5,
        "report/host_rss_peak_mib": 2.5,
        "loss_scale/skipped_steps": 2,
    }
    assert plain(sessions["0"]) == {
        "seed": 3,
        "monitor": "validation/accuracy",
        "batch_size": 128,
        "model.name": "cnn",
        "model.filters": 32,
        "optimizer.name": "adam",
        "optimizer.learning_rate": 0.001,
        "optimizer.schedule.name": "constant",
        "precision.policy": "mixed_float16",
        "precision.overrides": '[{"match": "a", "policy": "float32"}]',
        "loss_scale.mode": "dynamic",  # chosen in the place of auto
        "trainer.smoke_checks": False,
    }


def test_memory_is_the_device_s_where_it_tells(tmp_path, page):
    write(tmp_path / "0", made(kind="gpu"))
    _, sessions = page()
    assert values(sessions["0"])["report/device_peak_mib"] == 3
    assert "report/host_rss_peak_mib" not in read_tags(tmp_path / "0")


@pytest.mark.parametrize(
    ("requested", "policy", "told"),
    [("auto", "mixed_bfloat16", "mixed_bfloat16"), ("tf32", "float32", "tf32")],
)
def test_the_policy_is_the_one_that_sets_runs_apart(requested, policy, told):
    result = made()
    result.precision = report.Precision(requested=requested, policy=policy)
    assert hparams.settings(result)["precision.policy"] == told


def test_what_was_not_measured_is_absent(tmp_path, page):
    result = made()
    result.throughput.examples_per_second = None
    write(tmp_path / "0", result)
    _, sessions = page()
    assert "report/examples_per_second" not in values(sessions["0"])


@pytest.mark.parametrize("status", STATUSES)
def test_the_status_of_a_session(tmp_path, page, status):
    write(tmp_path / "0", made(status=status))
    _, sessions = page()
    assert [session.status for session in sessions["0"].sessions] == [STATUSES[status]]


def test_every_status_of_a_report_is_one_of_the_page_s():
    assert set(STATUSES) == set(report.run_report.STATUSES)


def test_a_run_that_was_killed_has_what_it_had(tmp_path, page):
    write(tmp_path / "0", made(), ended=False)
    _, sessions = page()
    assert values(sessions["0"]) == {"validation/accuracy": 0.75, "loss_scale/skipped_steps": 2}
    assert sessions["0"].sessions[0].status == api_pb2.STATUS_UNKNOWN


def test_its_parent_says_that_a_killed_run_failed(tmp_path, page, compose):
    write(tmp_path / "0" / "tensorboard", made(), ended=False)
    postmortem.write(tmp_path / "0", compose(), command=["mpt"], exit_code=-9, started=1.7e9)
    _, sessions = page()
    (session,) = sessions["0/tensorboard"].sessions
    assert session.status == api_pb2.STATUS_FAILURE
    assert values(session) == {"validation/accuracy": 0.75, "loss_scale/skipped_steps": 2}


def test_a_killed_run_without_event_files_gets_none(tmp_path, compose):
    postmortem.write(tmp_path, compose(), command=["mpt"], exit_code=-9, started=1.7e9)
    assert not (tmp_path / "tensorboard").exists()


def test_the_columns_of_the_command_line_come_first(tmp_path, page):
    write(tmp_path / "0", made(), overrides="['precision=mixed_float16', '++model.filters=32']")
    experiment, _ = page()
    assert [info.name for info in experiment.hparam_infos if info.differs] == [
        "model.filters",
        "precision.policy",
    ]
    kinds = {info.name: info.type for info in experiment.hparam_infos}
    assert kinds["trainer.smoke_checks"] == api_pb2.DATA_TYPE_BOOL
    assert kinds["model.filters"] == api_pb2.DATA_TYPE_FLOAT64
    assert kinds["precision.policy"] == api_pb2.DATA_TYPE_STRING
    tags = [info.name.tag for info in experiment.metric_infos]
    assert tags == [
        "validation/accuracy",
        "report/examples_per_second",
        "report/host_rss_peak_mib",
        "loss_scale/skipped_steps",
    ]


def test_tensorboard_alone_shows_the_other_runs_of_a_sweep(tmp_path, page):
    for seed in range(3):
        write(tmp_path / str(seed), made(CONFIG | {"seed": seed}))
    experiment, sessions = page()
    assert {name: plain(group)["seed"] for name, group in sessions.items()} == {
        "0": 0,
        "1": 1,
        "2": 2,
    }
    # A domain would be one run's, and the page's filters would hide the others.
    assert not any(info.WhichOneof("domain") for info in experiment.hparam_infos)


def test_mpt_board_shows_the_columns_of_all_runs(tmp_path, page):
    mlp = {"name": "mlp", "_target_": "mpt.models.mlp.build", "units": 64}
    for number in range(12):
        config = CONFIG | ({"model": mlp} if number % 2 else {})
        write(tmp_path / str(number), made(config, kind="gpu" if number == 11 else "cpu"))
    experiment, sessions = page(AllRunsHParamsPlugin)
    assert set(sessions) == {str(number) for number in range(12)}
    infos = {info.name: info for info in experiment.hparam_infos}
    assert {"model.filters", "model.units"} <= set(infos)
    assert [name for name, info in infos.items() if info.differs] == ["model.name"]
    assert {v.string_value for v in infos["model.name"].domain_discrete.values} == {"cnn", "mlp"}
    tags = [info.name.tag for info in experiment.metric_infos]
    assert {"report/device_peak_mib", "report/host_rss_peak_mib"} <= set(tags)
    assert len(tags) == len(set(tags)) == 5
    assert values(sessions["11"])["report/device_peak_mib"] == 3


def test_mpt_board_leaves_alone_what_is_not_ours(tmp_path, page):
    with Board(tmp_path / "0") as board:
        board.scalars(1, {"loss": 1})
    experiment, sessions = page(AllRunsHParamsPlugin)
    assert not experiment.hparam_infos
    assert not sessions
    session = plugin_data_pb2.SessionStartInfo()
    session.hparams["units"].number_value = 8
    data = plugin_data_pb2.HParamsPluginData(session_start_info=session)
    with Board(tmp_path / "1") as board:  # of a program that writes no columns
        board.metadata(metadata.SESSION_START_INFO_TAG, metadata.create_summary_metadata(data))
        board.scalars(1, {"loss": 1})
    assert page(AllRunsHParamsPlugin) == page(hparams_plugin.HParamsPlugin)
    assert [info.name.tag for info in page(AllRunsHParamsPlugin)[0].metric_infos] == ["loss"]


def test_tensorboard_still_has_the_methods_that_mpt_board_builds_on():
    for name in ("_find_experiment_tag", "_compute_hparam_infos"):
        assert callable(getattr(backend_context.Context, name))


def test_odd_values_do_not_break_the_page(tmp_path, page):
    odd = {
        "nan": math.nan,
        "infinite": -math.inf,
        "surrogate": "a\udcff",
        "markup": "<script>alert(1)</script>",
        "list": [1, {"a": None}],
        "none": None,
    }
    write(tmp_path / "0", made(CONFIG | {"model": odd}))
    _, sessions = page()
    found = {k[6:]: v for k, v in plain(sessions["0"]).items() if k.startswith("model.")}
    assert found == {
        "nan": "nan",
        "infinite": "-inf",
        "surrogate": "a?",
        "markup": "<script>alert(1)</script>",
        "list": json.dumps([1, {"a": None}]),
    }


def test_writing_a_session_imports_no_tensorflow(tmp_path):
    code = (
        "import sys; from mpt.telemetry import hparams;"
        "from mpt.telemetry.tensorboard import Board;"
        "from mpt.report import RunReport; r = RunReport('0', 'n', [], '', {'seed': 1});"
        "b = Board(sys.argv[1]); hparams.begin(b, r); hparams.end(b, r); b.close();"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 0
