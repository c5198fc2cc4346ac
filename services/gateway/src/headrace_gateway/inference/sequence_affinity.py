"""Which replica has the state of a sequence."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Protocol, TypeVar

from headrace_common.clock import Clock
from headrace_gateway.catalog import CatalogVersion

REMEMBERED_MAX = 65_536
_IDLE_S = 60.0


class Session(Protocol):
    """A runner as this gateway knows it.

    Attributes:
        id: The same at every gateway.
        token: Of this session alone.
    """

    id: str
    token: str


class SequenceCall(Protocol):
    """What is asked of a call."""

    @property
    def version(self) -> CatalogVersion: ...
    @property
    def sequence(self) -> str: ...
    @property
    def sequence_start(self) -> bool: ...
    @property
    def refused_by(self) -> frozenset[str]: ...


Runner = TypeVar("Runner", bound=Session)


class SequenceAffinity:
    """Finds the replica of a sequence. Pure but for the clock; one event loop.

    Gateways share nothing, and agree because each ranks the replicas by a hash of sequence and runner. A replica that
    comes may outrank the one that has the state. The gateway that was used for the sequence before remembers where it
    is. Another one asks the first in rank, which has not heard of the sequence and refuses it before it computes
    anything, and then the next: whoever was there before the newcomers keeps its rank among the others.

    Args:
        remembered_max: Sequences that are remembered; of more the longest unused are forgotten.
    """

    def __init__(self, *, clock: Clock, remembered_max: int = REMEMBERED_MAX) -> None:
        self._clock = clock
        self._remembered_max = remembered_max
        self._remembered: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()

    def pick(
        self,
        call: SequenceCall,
        replicas: Sequence[Runner],
        usable: Callable[[Runner], bool],
        standing: Callable[[Runner], int],
    ) -> Runner | None:
        """The replica for the call; None when the one that has the sequence can't be used now.

        One that starts a sequence goes to the next in rank instead, where the others will find it.

        Args:
            call: A call of a sequence.
            replicas: All that take calls for its version.
            usable: Whether one more call may go there now.
            standing: How far down the chain of preferred devices a replica is; 0 is the first.
        """
        key = call.version.uid, call.sequence
        now = self._clock.monotonic()
        asked = [replica for replica in replicas if replica.token not in call.refused_by]
        token, until = self._remembered.get(key, ("", 0.0))
        known = next((replica for replica in asked if replica.token == token), None) if now < until else None
        if known is not None:
            found = known if usable(known) else None
        else:
            ranked = sorted(asked, key=lambda replica: (standing(replica), _weight(key, replica.id)))
            tried = ranked if call.sequence_start else ranked[:1]
            found = next(filter(usable, tried), None)
        if found is not None:
            self._remember(key, found.token, now + _idle_s(call.version))
        return found

    def _remember(self, key: tuple[str, str], token: str, until: float) -> None:
        self._remembered[key] = token, until
        self._remembered.move_to_end(key)
        if len(self._remembered) > self._remembered_max:
            self._remembered.popitem(last=False)


def _idle_s(version: CatalogVersion) -> float:
    return version.proto.manifest.sequence.idle_timeout.ToNanoseconds() / 1e9 or _IDLE_S


def _weight(key: tuple[str, str], runner_id: str) -> bytes:
    """Lowest for the runner that a sequence belongs to.

    Source: Thaler, Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998 (rendezvous hashing).
    """
    return blake2b("\0".join((*key, runner_id)).encode(), digest_size=8).digest()
