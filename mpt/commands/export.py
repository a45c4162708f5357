"""`mpt export`: a trained model as a SavedModel, or as a TFLite file."""

from mpt.commands import Options
from mpt.commands.evaluate import trained
from mpt.commands.flags import Flag, take
from mpt.errors import ConfigurationError
from mpt.isolation import execute

FLAGS = {
    "--format": Flag("saved_model", str, ("saved_model", "tflite")),
    "--to": Flag(None, str),
    "--json": Flag(),
}
USAGE = """\
usage: mpt export RUN [OVERRIDE ...] [FLAG ...]

Write the model that a run has saved as a SavedModel, for TensorFlow Serving and others, or as a
TFLite file with its weights in float16, for phones; and hold its outputs for one batch against the
Keras model's.

examples:
  mpt export runs/2026-11-25/10-00-00_cnn_mixed_float16_1a2b
  mpt export RUN precision=float32 --to serving/1
  mpt export RUN --format tflite --to cnn.tflite

overrides: precision=CHOICE (a TFLite file computes in float32), device=CHOICE, and values of these
groups' keys, of dataset.* and batch_size

flags:
  --format FORMAT          saved_model (the default) or tflite
  --to PATH                RUN/saved_model or RUN/model_float16.tflite where it is not given
  --json                   print one JSON object, and nothing else
"""


def main(argv: list[str], options: Options) -> int:
    """Export the run that `argv` names.

    Returns:
        0; 1 where what was written does not give what the Keras model gives.

    Raises:
        ConfigurationError: there is no such run, an override is wrong, or the target is there.
    """
    values, words = take(argv, FLAGS)
    if values["format"] == "tflite":
        words = _in_float32(words)
    job = trained("export", words, ["mpt", "export", *argv], options)
    job.options = {"to": values["to"], "form": values["format"], "as_json": values["json"]}
    return execute(job)


def _in_float32(words: list[str]) -> list[str]:
    """`words` for the model in float32, whatever it was trained in."""
    for word in words:
        key = word.partition("=")[0]
        if key.partition(".")[0] == "precision":
            raise ConfigurationError(
                f"{word} has no use: a TFLite file computes in float32, of weights in float16",
                where=key,
                remedy=f"leave {word} out",
            )
    return [*words, "precision=float32"]


def help_text(argv: list[str]) -> str:
    """The help of `mpt export`."""
    return USAGE
