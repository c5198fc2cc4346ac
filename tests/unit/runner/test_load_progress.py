"""How far a load is, as far as that is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from headrace_runner.loading.load_progress import LoadProgress


class Telling:
    """A backend that tells what it is told to."""

    def __init__(self, tell: Callable[[], float]) -> None:
        self._tell = tell

    def load_progress(self, artifact_dir: Path) -> float:
        return self._tell()


def ratios(progress: LoadProgress) -> tuple[float, float] | None:
    news = progress.news()
    return None if news is None else (round(news.fetched_ratio, 2), round(news.loaded_ratio, 2))


def test_what_is_fetched_counts_by_bytes_of_all_files_and_goes_on_where_it_was() -> None:
    progress = LoadProgress(size_bytes=1_000)
    assert ratios(progress) is None
    progress.fetching("a", 100)
    assert ratios(progress) == (0.1, 0)
    progress.fetching("a", 400)
    progress.fetching("b", 200)
    assert ratios(progress) == (0.6, 0)
    progress.fetching("a", 10)
    assert ratios(progress) is None, "a file that is fetched anew takes nothing back"
    progress.fetching("b", 9_000)
    assert ratios(progress) == (1, 0)
    progress.fetched()
    assert ratios(progress) is None


def test_a_backend_may_tell_how_far_it_is_and_may_be_wrong() -> None:
    progress = LoadProgress(size_bytes=0)
    progress.fetched()
    loaded = [0.5, 0.2, 0.503, 7.0]
    progress.loads(Telling(lambda: loaded.pop(0)), Path())
    assert [ratios(progress) for _ in range(5)] == [(1, 0.5), None, None, (1, 1), None]


def test_a_backend_that_does_not_tell_has_loaded_nothing_until_it_has_all() -> None:
    progress = LoadProgress(size_bytes=10)
    progress.loads(object(), Path())
    progress.fetched()
    assert ratios(progress) == (1, 0)
