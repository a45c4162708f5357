"""`mpt inspect`: what every layer computes in, before any training."""

from functools import partial

from mpt.commands import Options
from mpt.commands.flags import Flag, take
from mpt.commands.help import with_groups
from mpt.commands.jobs import single

FLAGS = {"--json": Flag(), "--strict": Flag()}
USAGE = """\
usage: mpt inspect [OVERRIDE ...] [FLAG ...]

Build the model as `mpt train` would, and show every layer: dtypes, shape, parameters, FLOPs,
activation bytes, and where its policy came from; then totals, and findings with their remedies.
Nothing is trained and nothing is written.

examples:
  mpt inspect precision=mixed_float16
  mpt inspect model=resnet precision=mixed_bfloat16 batch_size=256
  mpt inspect precision=mixed_float16 --strict    exit 2 on a finding, for CI
  mpt inspect --json | jq .findings

flags:
  --json                   one JSON object on stdout instead of tables
  --strict                 exit 2 where there is a finding
"""


def main(argv: list[str], options: Options) -> int:
    """Inspect the configuration that `argv` asks for.

    Returns:
        0; 2 on a finding with --strict.

    Raises:
        ConfigurationError: the configuration or the input is wrong.
    """
    values, rest = take(argv, FLAGS)
    own = {"as_json": values["json"], "strict": values["strict"]}
    return single("inspect", rest, options, own=own)


help_text = partial(with_groups, USAGE)
