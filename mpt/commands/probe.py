"""`mpt probe`: one batch in float32 and under the policy, layer by layer."""

from functools import partial

from mpt.commands import Options
from mpt.commands.flags import Flag, take
from mpt.commands.help import with_groups
from mpt.commands.jobs import single

FLAGS = {
    "--json": Flag(),
    "--batches": Flag(1, int, least=1),
    "--reference": Flag("float32", str, choices=("float32", "float64")),
    "--plot": Flag("svg", str, choices=("svg", "png")),
}
USAGE = """\
usage: mpt probe [OVERRIDE ...] [FLAG ...]

Send real batches through the same weights in float32 and under the policy, and show for each
layer what the policy loses, and which loss scale it needs. Nothing is trained.

examples:
  mpt probe precision=mixed_float16
  mpt probe model=resnet dataset=cifar10 precision=mixed_float16 --batches 4
  mpt probe precision=mixed_bfloat16 --reference float64
  mpt probe precision=mixed_float16 --json | jq .recommendation

flags:
  --json                   one JSON object on stdout instead of tables
  --batches N              batches to look at (1)
  --reference DTYPE        float32 (default) or float64
  --plot FORMAT            the histogram's picture as svg (default) or png
"""


def main(argv: list[str], options: Options) -> int:
    """Probe the configuration that `argv` asks for.

    Raises:
        ConfigurationError: the configuration or the input is wrong.
    """
    values, rest = take(argv, FLAGS)
    own = {"as_json": values.pop("json"), **values}
    return single("probe", rest, options, own=own, folder="probes")


help_text = partial(with_groups, USAGE)
