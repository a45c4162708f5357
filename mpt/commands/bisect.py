"""`mpt bisect`: the layers that must stay in float32 for a run to succeed."""

from functools import partial

from mpt import bisection
from mpt.bisection import Settings
from mpt.commands import Options
from mpt.commands.flags import Flag, take
from mpt.commands.help import with_groups
from mpt.commands.jobs import compose

FLAGS = {
    "--steps": Flag(Settings.steps, int, least=1),
    "--trials": Flag(Settings.trials, int, least=1),
    "--tolerance": Flag(Settings.tolerance, float, least=0),
}
USAGE = f"""\
usage: mpt bisect [OVERRIDE ...] [FLAG ...]

For a run that diverges, or trains worse than float32, under a policy: find a small set of layers
to keep in float32, by short trainings in processes of their own, the likeliest layers first. It
writes a precision file that is ready to use, and the evidence.

examples:
  mpt bisect precision=mixed_float16
  mpt bisect model=resnet dataset=cifar10 precision=mixed_float16 --steps 500
  mpt bisect --allow my.py model=python model.function=my.py:build precision=mixed_bfloat16

flags:
  --steps N                steps of each training ({Settings.steps}, or the run's, if fewer)
  --trials N               most trainings with some layers in float32 ({Settings.trials})
  --tolerance X            how far the final loss may be above float32's, as a share of it
                           ({Settings.tolerance})
"""


def main(argv: list[str], options: Options) -> int:
    """Bisect the configuration that `argv` asks for.

    Returns:
        0 where a set of layers was found, 1 where none was, 130 interrupted.

    Raises:
        ConfigurationError: the configuration or the input is wrong, float32 fails too, or there
            is nothing to find.
    """
    values, rest = take(argv, FLAGS)
    job, code = compose("bisect", rest, options, folder="bisections")
    if job is None:
        return code
    job.command = ["mpt", "bisect", *argv]
    return bisection.run(job, Settings(**values), rest)


help_text = partial(with_groups, USAGE)
