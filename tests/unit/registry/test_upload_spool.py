"""Files of uploads: private, gone afterwards, and cleared where a process died over them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from headrace_common import catalogue
from headrace_common.errors import InitializationError
from headrace_registry.upload_spool import UploadSpool


def test_file_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    spool = UploadSpool(directory=tmp_path / "uploads")
    assert spool.open() == 0
    with spool.file() as (descriptor, path):
        os.write(descriptor, b"data")
        assert path.read_bytes() == b"data"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()
    spool.close()
    spool.close()
    assert list((tmp_path / "uploads").iterdir()) == []


def test_file_is_gone_after_a_failure_too(tmp_path: Path) -> None:
    spool = UploadSpool(directory=tmp_path)
    spool.open()
    with pytest.raises(KeyError), spool.file() as (_, path):
        raise KeyError
    assert not path.exists()
    spool.close()


def test_what_a_dead_process_left_is_cleared_and_what_a_live_one_has_is_kept(tmp_path: Path) -> None:
    live = UploadSpool(directory=tmp_path)
    live.open()
    dead = UploadSpool(directory=tmp_path)
    dead.open()
    (dead.folder / "half").write_bytes(b"half")
    assert dead._lock is not None  # pyright: ignore[reportPrivateUsage]
    os.close(dead._lock)  # pyright: ignore[reportPrivateUsage] - what the end of a process does
    (tmp_path / "without-a-lock").mkdir()
    starting = UploadSpool(directory=tmp_path)
    assert starting.open() == 2
    assert live.folder.is_dir()
    assert not dead.folder.exists()
    assert not (tmp_path / "without-a-lock").exists()
    starting.close()
    live.close()
    assert list(tmp_path.iterdir()) == []


def test_folder_that_can_not_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InitializationError) as failure:
        UploadSpool(directory=tmp_path / "file" / "uploads").open()
    assert failure.value.entry == catalogue.INITIALIZATION_FAILED
    assert str(tmp_path) not in failure.value.message
