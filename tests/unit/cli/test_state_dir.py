"""The state directory and its lock."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from headrace_cli.mesh.state_dir import StateDir, StateDirBusyError, StateDirError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_and_logs_are_private(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.open()
    assert [mode(folder) for folder in (state.secrets, state.logs, state.storage)] == [0o700] * 3
    state.close()


def test_a_folder_that_exists_keeps_its_permissions(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    folder.chmod(0o711)
    state = StateDir(folder)
    state.open()
    state.close()
    assert mode(folder) == 0o711


def test_a_second_mesh_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    first, second = StateDir(tmp_path), StateDir(tmp_path)
    first.open()
    with pytest.raises(StateDirBusyError, match=rf"process {os.getpid()}.*--state-dir") as refused:
        second.open()
    assert refused.value.pid == os.getpid()
    first.close()
    second.open()
    second.close()


def test_a_stale_lock_file_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"pid": 1}')
    state = StateDir(tmp_path)
    state.open()
    state.close()


def test_an_unreadable_owner_is_still_reported_as_busy(tmp_path: Path) -> None:
    first, second = StateDir(tmp_path), StateDir(tmp_path)
    first.open()
    (tmp_path / "lock").write_text("not json")
    with pytest.raises(StateDirBusyError, match="another process"):
        second.open()
    first.close()


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(StateDirError, match="can't be used"):
        StateDir(path).open()


@pytest.mark.parametrize("name", ["logs", "secrets"])
def test_a_folder_whose_parts_can_not_be_made_is_refused_and_given_back(tmp_path: Path, name: str) -> None:
    obstacle = tmp_path / name
    obstacle.symlink_to("nowhere/at/all")
    with pytest.raises(StateDirError, match=rf"can't be used: .*{name}"):
        StateDir(tmp_path).open()
    obstacle.unlink()
    state = StateDir(tmp_path)
    state.open()
    state.close()
