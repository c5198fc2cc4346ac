"""Which models leave memory: never one that is used or wanted, the least recently used first, as few as needed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.artifacts.eviction import CachedArtifact, choose_evictions
from headrace_runner.loading.residency import Residency

MODELS = st.dictionaries(
    st.sampled_from("abcdefgh"),
    # Size, time of load, seconds until the last call, seconds that it is wanted from now on, whether it is busy.
    st.tuples(
        st.integers(0, 100),
        st.floats(0, 1_000),
        st.floats(0, 1_000),
        st.one_of(st.none(), st.integers(0, 9)),
        st.booleans(),
    ),
)


def residency(bytes_max: int = 100, stay_min_s: float = 10.0, idle_max_s: float = 60.0) -> Residency:
    return Residency(bytes_max=bytes_max, stay_min_s=stay_min_s, idle_max_s=idle_max_s)


@given(MODELS, st.integers(0, 200), st.integers(1, 400))
def test_evictions_spare_what_is_needed_and_take_the_oldest_first(
    models: dict[str, tuple[int, float, float, float | None, bool]], needed: int, bytes_max: int
) -> None:
    now = 1_000.0
    resident = residency(bytes_max)
    for uid, (size, loaded_at, used_after, wanted_s, _) in models.items():
        resident.add(uid, size, loaded_at)
        resident.touch(uid, min(now, loaded_at + used_after))
        if wanted_s is not None:
            resident.want(uid, now + wanted_s)
    busy = {uid for uid, model in models.items() if model[4]}
    assert resident.bytes_used == sum(model[0] for model in models.values())
    may_leave = {
        uid
        for uid, (_, loaded_at, _, wanted_s, is_busy) in models.items()
        if not is_busy and not wanted_s and now - loaded_at >= 10.0
    }
    chosen = resident.evict_for(needed, now, busy)
    surplus = resident.bytes_used + needed - bytes_max
    if chosen is None:
        assert surplus > sum(models[uid][0] for uid in may_leave)
        return
    assert set(chosen) <= may_leave
    freed = [models[uid][0] for uid in chosen]
    assert sum(freed) >= surplus
    assert not chosen or sum(freed[:-1]) < surplus, "one fewer would not have been enough"
    used_at = {uid: min(now, model[1] + model[2]) for uid, model in models.items()}
    assert all(used_at[uid] <= used_at[other] for uid in chosen for other in may_leave - set(chosen))
    for uid in chosen:
        resident.remove(uid)
    assert resident.bytes_used + needed <= bytes_max or surplus <= 0


def test_what_a_model_takes_may_change_while_it_is_in_memory() -> None:
    models = residency()
    models.add("a", 40, 0.0)
    models.add("b", 40, 0.0)
    models.measured("a", 60)
    assert models.bytes_used == 100
    assert models.evict_for(10, 100.0, ()) == ["a"]
    models.remove("a")
    assert models.bytes_used == 40


def test_a_model_stays_its_minimum_time() -> None:
    resident = residency()
    resident.add("a", 100, 0.0)
    assert resident.evict_for(1, 9.9, ()) is None
    assert resident.evict_for(1, 10.0, ()) == ["a"]


def test_a_wanted_model_stays_until_the_want_lapses_or_is_withdrawn() -> None:
    resident = residency()
    resident.add("a", 100, 0.0)
    resident.want("a", 50.0)
    resident.want("a", 30.0)
    assert resident.evict_for(1, 49.0, ()) is None
    assert resident.evict_for(1, 50.0, ()) == ["a"]
    resident.want("a", 90.0)
    resident.withdraw("a")
    assert resident.evict_for(1, 60.0, ()) == ["a"]


def test_idle_models_leave_unless_busy_or_wanted() -> None:
    resident = residency()
    for uid in ("idle", "busy", "wanted", "used"):
        resident.add(uid, 10, 0.0)
    resident.want("wanted", 1_000.0)
    resident.touch("used", 50.0)
    assert resident.idle(60.0, {"busy"}) == ["idle"]
    assert resident.idle(59.0, {"busy"}) == []


def test_a_model_is_surplus_once_it_is_called_long_after_its_last_want() -> None:
    resident = residency()
    for uid in ("called", "wanted", "idle", "never wanted"):
        resident.add(uid, 10, 0.0)
        if uid != "never wanted":
            resident.want(uid, 50.0)
    resident.want("wanted", 100.0)
    for at in (300.0, 309.0):
        for uid in ("called", "wanted", "never wanted"):
            resident.touch(uid, at)
        resident.want("wanted", at + 30)
        assert resident.surplus(at) == [], "gateways have yet to want again what is used after a rest"
    resident.touch("called", 310.0)
    resident.idle(310.0, ())
    assert resident.surplus(310.0) == ["called"]
    resident.want("called", 340.0)
    assert resident.surplus(310.0) == []
    resident.touch("called", 341.0)
    assert resident.surplus(341.0) == []


def test_loading_a_model_again_does_not_count_it_twice() -> None:
    resident = residency()
    resident.add("a", 40, 0.0)
    resident.add("a", 60, 1.0)
    assert resident.bytes_used == 60
    resident.remove("a")
    resident.remove("a")
    assert resident.bytes_used == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 9)), max_size=8), st.integers(0, 100), st.integers(0, 200))
def test_disk_evictions_are_the_fewest_oldest_that_make_room(
    sizes_and_times: list[tuple[int, float]], needed: int, bytes_max: int
) -> None:
    cached = [CachedArtifact(str(index), size, used) for index, (size, used) in enumerate(sizes_and_times)]
    chosen = choose_evictions(cached, needed, bytes_max)
    surplus = sum(artifact.size_bytes for artifact in cached) + needed - bytes_max
    freed = [artifact.size_bytes for artifact in chosen]
    assert sum(freed) >= surplus or len(chosen) == len(cached)
    assert not chosen or sum(freed[:-1]) < surplus
    assert all(gone.last_used <= kept.last_used for gone in chosen for kept in cached if kept not in chosen)
