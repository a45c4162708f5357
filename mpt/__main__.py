"""`python -m mpt` is the command `mpt`."""

from mpt.cli import command

if __name__ == "__main__":
    command()
