"""`mpt doctor`: the input pipeline alone, measured, and the device's ceilings."""

from mpt.commands import Options
from mpt.commands.evaluate import trained
from mpt.commands.flags import Flag, take
from mpt.commands.help import groups
from mpt.commands.jobs import single
from mpt.errors import ConfigurationError
from mpt.isolation import execute

DATA, PEAKS = "doctor data", "doctor --peaks"
FLAGS = {"--json": Flag(), "--seconds": Flag(10, int, least=1)}
USAGE = """\
usage: mpt doctor data [RUN] [OVERRIDE ...] [FLAG ...]
       mpt doctor --peaks [OVERRIDE ...] [--json]

data:
Read batches as training would, without a model, and tell how fast they come. With a run's folder
the data are that run's, and what they give is held against what its steps take.

--peaks:
Measure the device's highest rates in each dtype: of matrix products, of 3x3 convolutions, and of
memory. No step can be faster; where bfloat16 is no faster than float32, mixed precision saves
memory at the most. Half a minute on a CPU.

examples:
  mpt doctor --peaks device=cpu
  mpt doctor data dataset=image_folder dataset.path=photos batch_size=64
  mpt doctor data runs/2026-11-25/10-00-00_resnet_mixed_float16_1a2b
  mpt doctor data RUN dataset.size=160 batch_size=128
  mpt doctor data dataset=cifar10 --json | jq .examples_per_second

flags:
  --seconds N              of data: read for so long (10)
  --json                   one JSON object on stdout instead of a table
"""


def main(argv: list[str], options: Options) -> int:
    """Measure the data that `argv` names, or the device.

    Returns:
        0; 4 where memory does not suffice.

    Raises:
        ConfigurationError: the configuration or the input is wrong.
    """
    if argv[:1] == ["--peaks"]:
        values, rest = take(argv[1:], {"--json": Flag()})
        return single(PEAKS, rest, options, own={"as_json": values["json"]})
    if argv[:1] != ["data"]:
        given = argv[0] if argv else "nothing"
        raise ConfigurationError(
            f"mpt doctor looks at data or at --peaks, and {given} was given",
            where="command line",
            value=argv[0] if argv else None,
            allowed=["data", "--peaks"],
        )
    values, rest = take(argv[1:], FLAGS)
    own = {"as_json": values["json"], "seconds": values["seconds"]}
    if not any(not word.startswith("-") and "=" not in word for word in rest):
        return single(DATA, rest, options, own=own)
    job = trained(DATA, rest, ["mpt", "doctor", *argv], options)
    job.options = {**own, "of_run": True}
    return execute(job)


def help_text(argv: list[str]) -> str:
    """The help of `mpt doctor`."""
    return f"{USAGE}\n{groups(argv)}"
