"""The `keystep` command as it is installed: the commands of `keystep.search.cli`, and those that know machines."""

import keystep.search.cli
from keystep.search.cli import Commands


def main() -> None:
    """Run the command line."""
    keystep.search.cli.main(commands)


def commands() -> Commands:
    """The commands of this room, by the name they are called by, in the order that help lists them."""
    from keystep.cluster.commands.doctor import doctor
    from keystep.cluster.commands.estimate import estimate
    from keystep.cluster.commands.launch import launch
    from keystep.cluster.commands.launched import logs, status, stop

    return {
        "estimate": estimate,
        "doctor": doctor,
        "launch": launch,
        "status": status,
        "logs": logs,
        "stop": stop,
    }
