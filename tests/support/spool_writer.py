"""Writes a spool until it is killed, and tells how far it has come: `python spool_writer.py <folder>`.

Each line says how many calls were admitted; all of them but each tenth have ended.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.spools import admit, end, new_spool


def main() -> None:
    """Writes for as long as it lives."""
    spool = new_spool(Path(sys.argv[1]), gateway_id="gateway-0.dead", files_max=10_000)
    number = 0
    # Who should kill it may stand still for a while: then it waits.
    while number < 20_000 or signal.pause():
        for _ in range(100):
            call = admit(spool, f"r{number}")
            if number % 10:
                end(spool, call, f"r{number}")
            number += 1
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


main()
