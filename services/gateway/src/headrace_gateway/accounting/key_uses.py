"""When keys were last used, told to quota now and then."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from headrace.quota.internal.v1.usage_ingest_pb2 import KeyUse
from headrace_common.clock import Clock
from headrace_common.principal import Principal

_EVERY_S = 60.0
_KEYS_MAX = 100_000


class KeyUses:
    """Tells of each key at most once a minute. One event loop.

    Args:
        tell: Takes what is to be told.
    """

    def __init__(self, *, tell: Callable[[KeyUse], None], clock: Clock) -> None:
        self._tell = tell
        self._clock = clock
        self._due: dict[str, float] = {}

    def used(self, principal: Principal) -> None:
        """A call came with the key. Costs a look-up, but for the first in a minute."""
        key_id = principal.key_id
        now = self._clock.monotonic()
        if now < self._due.get(key_id, 0.0) or not _is_key(key_id):
            return
        if len(self._due) >= _KEYS_MAX:
            self._due = {key: due for key, due in self._due.items() if now < due}
        self._due[key_id] = now + _EVERY_S
        message = KeyUse(key_id=key_id, tenant_id=principal.tenant_id)
        message.use_time.FromDatetime(self._clock.now())
        self._tell(message)


def _is_key(key_id: str) -> bool:
    """Whether the ledger knows the key: not that of the embedded mesh, nor a token of somebody else."""
    try:
        return str(UUID(key_id)) == key_id
    except ValueError:
        return False
