"""The `keystep` command as it is installed: the commands of `search.cli`, and those that know machines."""

import search.cli
from search.cli import Commands


def main() -> None:
    """Run the command line."""
    search.cli.main(commands)


def commands() -> Commands:
    """The commands of this room, by the name they are called by, in the order that help lists them."""
    from cluster.commands.doctor import doctor
    from cluster.commands.estimate import estimate
    from cluster.commands.launch import launch
    from cluster.commands.launched import logs, status, stop

    return {
        "estimate": estimate,
        "doctor": doctor,
        "launch": launch,
        "status": status,
        "logs": logs,
        "stop": stop,
    }
