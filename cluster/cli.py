"""The `keystep` command as it is installed: the commands of `search.cli`, and those that know machines."""

import search.cli
from search.cli import Commands


def main() -> None:
    """Run the command line."""
    search.cli.main(commands)


def commands() -> Commands:
    """The commands of this room, by the name they are called by, in the order that help lists them."""
    return {}
