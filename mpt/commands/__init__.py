"""One module a subcommand, each with `main(argv, options) -> exit code` and `help_text(argv)`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What every subcommand takes besides its own arguments.

    Attributes:
        verbosity: -1 quiet, 0 as usual, 1 and above more.
        allow: modules and files of the user's own that a configuration may name.
        debug: show tracebacks.
    """

    verbosity: int = 0
    allow: tuple[str, ...] = ()
    debug: bool = False
