"""Flags that are not of one subcommand, and a few words of help on each."""

COMMON = {
    "--allow": "admit code of a module, or of a file.py",
    "--debug": "show tracebacks",
    "--help": "what the command takes",
    "--quiet": "only results",
    "--verbose": "more",
}
"""Of every subcommand."""
COMPOSING = {
    "--cfg": "show the composed configuration, and stop",
    "--config-dir": "add a folder of configuration files",
    "--info": "show how it was composed, and stop",
}
"""Hydra's, of the subcommands that compose one configuration."""
SWEEPING = {"--multirun": "every combination of comma-separated values"}
"""Hydra's, of training."""
