"""`mpt export`: a trained model as a SavedModel."""

from mpt.commands import Options
from mpt.commands.evaluate import trained
from mpt.commands.flags import Flag, take
from mpt.isolation import execute

FLAGS = {"--to": Flag(None, str)}
USAGE = """\
usage: mpt export RUN [OVERRIDE ...] [FLAG ...]

Write the model that a run has saved as a SavedModel, for TensorFlow Serving and others, and hold
its outputs for one batch against the Keras model's.

examples:
  mpt export runs/2026-11-25/10-00-00_cnn_mixed_float16_1a2b
  mpt export RUN precision=float32 --to serving/1

overrides: precision=CHOICE, device=CHOICE, and values of these groups' keys, of dataset.* and
batch_size

flags:
  --to FOLDER              RUN/saved_model where it is not given
"""


def main(argv: list[str], options: Options) -> int:
    """Export the run that `argv` names.

    Returns:
        0; 1 where what was written does not give what the Keras model gives.

    Raises:
        ConfigurationError: there is no such run, an override is wrong, or the folder is there.
    """
    values, words = take(argv, FLAGS)
    job = trained("export", words, ["mpt", "export", *argv], options)
    job.options = {"to": values["to"]}
    return execute(job)


def help_text(argv: list[str]) -> str:
    """The help of `mpt export`."""
    return USAGE
