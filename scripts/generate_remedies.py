"""Writes what the catalogue advises for each reason where the `headrace` command finds it; `--check` only compares."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from headrace_common.catalogue import ALL

TARGET = Path(__file__).resolve().parents[1] / "libs/cli/src/headrace_cli/remedies.json"


def main() -> int:
    """Write, or tell by the exit status whether the file is current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the file isn't current")
    wanted = json.dumps({entry.reason: entry.remedy for entry in ALL}, indent=1, ensure_ascii=False) + "\n"
    if not parser.parse_args().check:
        TARGET.write_text(wanted)
        return 0
    if TARGET.is_file() and TARGET.read_text() == wanted:
        return 0
    print(f"{TARGET} is not current: run `make generate`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
