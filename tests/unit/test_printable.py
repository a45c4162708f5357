"""Words of a command line that can be copied into a shell."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mpt.printable import shell_word


@pytest.mark.parametrize(
    "path", ["/runs/a-b_c.1", "runs/my run", "it's", "a,b=c", "$(x)`y`", "\u65e5\\'"]
)
def test_hydra_reads_what_a_shell_makes_of_it(path):
    (word,) = shlex.split(shell_word("resume", path))
    override = OverridesParser.create().parse_override(word)
    assert str(getattr(override.value(), "text", override.value())) == path


def test_a_plain_one_is_left_alone():
    assert shell_word("resume", "/runs/2026-11-25/a_b-1.c") == "resume=/runs/2026-11-25/a_b-1.c"
