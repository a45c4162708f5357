"""`mpt completion`: the script by which a shell completes mpt's words."""

from mpt import errors
from mpt.commands import Options
from mpt.completion import SHELLS, script
from mpt.errors import ConfigurationError

USAGE = """\
usage: mpt completion {bash|zsh|fish}

Print a script by which the shell completes subcommands, flags, groups and their choices, keys and
their values, and the paths of runs.

examples:
  eval "$(mpt completion bash)"          now; or as a line of ~/.bashrc
  eval "$(mpt completion zsh)"           now; or as a line of ~/.zshrc
  mpt completion fish | source           now; or as a line of ~/.config/fish/config.fish
"""


def main(argv: list[str], options: Options) -> int:
    """Print the script of the shell that `argv` names.

    Returns:
        0.

    Raises:
        ConfigurationError: there is no such shell.
    """
    if len(argv) != 1 or argv[0] not in SHELLS:
        raise ConfigurationError(
            "mpt completion takes the name of one shell",
            where="command line",
            allowed=SHELLS,
            value=argv[0] if argv else None,
        )
    print(script(argv[0]))
    return errors.OK


def help_text(argv: list[str]) -> str:
    """The help of `mpt completion`."""
    return USAGE
