"""`mpt doctor`: what this machine has and lacks; the input pipeline alone; the device's ceilings.

Without arguments it must help where packages are broken or missing, so what the other two need is
imported by them alone.
"""

from mpt.commands import Options
from mpt.commands.flags import Flag, take
from mpt.errors import ConfigurationError

DATA, PEAKS = "doctor data", "doctor --peaks"
EXAMINATION = {"--json": Flag(), "--quick": Flag()}
MEASURING = {"--json": Flag(), "--seconds": Flag(10, int, least=1)}
FLAGS = {**EXAMINATION, "--peaks": Flag()}
FLAGS_OF_TASKS = {DATA: MEASURING, PEAKS: {"--json": Flag()}}
USAGE = """\
usage: mpt doctor [--quick] [--json]
       mpt doctor data [RUN] [OVERRIDE ...] [FLAG ...]
       mpt doctor --peaks [OVERRIDE ...] [--json]

Tell what this machine has for training in mixed precision: Python, packages, processor, memory,
cards, TensorFlow, CUDA, cuDNN, XLA, and which policies pay; and for each problem what to do. It
answers where TensorFlow cannot be imported, too. Ends with 1 where training would fail.

data:
Read batches as training would, without a model, and tell how fast they come. With a run's folder
the data are that run's, and what they give is held against what its steps take.

--peaks:
Measure the device's highest rates in each dtype: of matrix products, of 3x3 convolutions, and of
memory. No step can be faster; where bfloat16 is no faster than float32, mixed precision saves
memory at the most. Half a minute on a CPU.

examples:
  mpt doctor
  mpt doctor --json | jq .findings
  mpt doctor --peaks device=cpu
  mpt doctor data dataset=image_folder dataset.path=photos batch_size=64
  mpt doctor data runs/2026-11-25/10-00-00_resnet_mixed_float16_1a2b
  mpt doctor data RUN dataset.size=160 batch_size=128
  mpt doctor data dataset=cifar10 --json | jq .examples_per_second

flags:
  --quick                  leave TensorFlow out: a tenth of a second instead of seconds
  --seconds N              of data: read for so long (10)
  --json                   one JSON object on stdout instead of a table
"""


def main(argv: list[str], options: Options) -> int:
    """Examine this machine, or measure the data that `argv` names, or the device.

    Returns:
        0; 1 where this machine has a problem; 4 where memory does not suffice.

    Raises:
        ConfigurationError: the configuration or the input is wrong.
    """
    if argv[:1] == ["data"]:
        return _data(argv[1:], options)
    if "--peaks" in argv:
        return _peaks([word for word in argv if word != "--peaks"], options)
    values, rest = take(argv, EXAMINATION)
    if rest:
        raise ConfigurationError(
            f"mpt doctor does not know {rest[0]}",
            where="command line",
            value=rest[0],
            allowed=["data", "--peaks", *EXAMINATION],
        )
    from mpt.doctor.examination import run

    return run(as_json=values["json"], quick=values["quick"])


def _peaks(argv: list[str], options: Options) -> int:
    from mpt.commands.jobs import single

    values, rest = take(argv, FLAGS_OF_TASKS[PEAKS])
    return single(PEAKS, rest, options, own={"as_json": values["json"]})


def _data(argv: list[str], options: Options) -> int:
    from mpt.commands.evaluate import trained
    from mpt.commands.jobs import arranged, single
    from mpt.isolation import execute

    values, rest = take(argv, MEASURING)
    own = {"as_json": values["json"], "seconds": values["seconds"]}
    _, words = arranged(DATA, rest)
    if all("=" in word or word.startswith("~") for word in words):
        return single(DATA, rest, options, own=own)
    job = trained(DATA, rest, ["mpt", "doctor", "data", *argv], options)
    job.options = {**own, "of_run": True}
    return execute(job)


def help_text(argv: list[str]) -> str:
    """The help of `mpt doctor`."""
    from mpt.commands.help import with_groups

    return with_groups(USAGE, argv)
