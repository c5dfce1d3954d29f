"""`python -m kilowatch`, and the script `kilowatch`."""

import os
import signal
import sys


def main() -> None:
    """The program. Importing the command line takes a second, in which signals to a server shall not be lost."""
    if sys.argv[1:2] == ["serve"]:
        # By default each ends the process. They wait until `cli.workers.release_signals`.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM})
    if sys.__stdin__ is None:  # it is closed, and the next file would have its number
        os.open(os.devnull, os.O_RDONLY)
    from kilowatch import cli

    cli.main()


if __name__ == "__main__":
    main()
