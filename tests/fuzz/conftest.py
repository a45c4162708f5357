"""How much is tried, and the run that is mutilated.

The examples are the same each time. MPT_FUZZ=N tries N times as many, others each time, and spends
minutes on making one that fails smaller.
"""

import pytest
from hypothesis import HealthCheck, Phase, settings
from mutations import FACTOR

settings.register_profile(
    "mpt",
    derandomize=FACTOR == 1,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.generate] + [Phase.shrink] * (FACTOR > 1),
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
settings.load_profile("mpt")

WORDS = (
    *("train", "model=mlp", "model.hidden=[4]", "precision=mixed_bfloat16", "loss_scale=dynamic"),
    *("device=cpu", "dataset.examples=160", "batch_size=32", "trainer.steps=10"),
    *("trainer.log_every=4", "trainer.checkpoint_every=6", "trainer.eval_every=5"),
    *("telemetry.histogram_every=4", "telemetry.peak=false", "trainer.keep_best=false", "-q"),
    "trainer.callbacks=[{_target_: keras.callbacks.ReduceLROnPlateau, monitor: loss}]",
)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a finished run of ten steps, with checkpoints of steps 6 and 10."""
    from mpt.cli import main

    run = tmp_path_factory.mktemp("trained") / "run"
    assert main([*WORDS, f"run_dir={run}"]) == 0
    return run
