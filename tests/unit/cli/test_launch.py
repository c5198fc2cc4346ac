"""The launcher's command line and the guard's bookkeeping."""

from __future__ import annotations

import signal
import sys

from hypothesis import given
from hypothesis import strategies as st

from headrace_cli.mesh.launch import Launch, launch_command, parse
from headrace_cli.mesh.orphan_guard import Groups
from headrace_cli.mesh.process import describe_exit


@given(
    parent=st.integers(1, 2**22),
    death_signal=st.integers(1, 31),
    user=st.none() | st.tuples(st.integers(1, 65_534), st.integers(1, 65_534)),
    lifeline=st.booleans(),
    command=st.lists(st.text(alphabet=st.characters(exclude_characters="\0"), min_size=1), min_size=1),
)
def test_every_launch_survives_its_command_line(
    parent: int, death_signal: int, user: tuple[int, int] | None, lifeline: bool, command: list[str]
) -> None:
    launch = Launch(parent, death_signal, user, lifeline, command)
    made = launch_command(launch)
    assert made[:3] == [sys.executable, "-I", "-S"]
    assert parse(made[4:]) == launch


def test_a_command_may_hold_the_launchers_own_words() -> None:
    launch = Launch(1, 9, None, False, ["run", "--", "--lifeline", "--user"])
    assert parse(launch_command(launch)[4:]) == launch


def test_the_guard_forgets_groups_that_were_taken_back() -> None:
    groups = Groups()
    for line in ("add 10 9\n", "add 11 3\n", "remove 10\n", "remove 99\n"):
        groups.apply(line)
    assert groups.pending() == {11: 3}


def test_exits_are_told_in_words() -> None:
    assert describe_exit(3) == "exited with 3"
    assert describe_exit(-signal.SIGKILL) == "was ended by SIGKILL"
    assert describe_exit(-250) == "was ended by signal 250"
    assert describe_exit(0) == "exited with 0"
    assert describe_exit(0, orderly="was drained and left") == "was drained and left"
