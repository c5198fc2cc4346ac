"""Signed principals for upstream services, signed once and used for part of their life."""

from __future__ import annotations

from collections import OrderedDict

from headrace_common.clock import Clock
from headrace_common.principal import Principal, PrincipalSigner


class PrincipalTokens:
    """Tokens for one upstream service.

    A token is handed out only during the first half of its life, so that what is left outlasts a call's way to the
    service. A revoked key is refused before it gets here, whatever is cached.

    Args:
        audience: The service that alone accepts the tokens.
        ttl_s: Life of a token in seconds.
        kept_max: Tokens that are kept; the one that was made first goes first.
    """

    def __init__(
        self, *, signer: PrincipalSigner, audience: str, ttl_s: float, clock: Clock, kept_max: int = 4_096
    ) -> None:
        self._signer = signer
        self._audience = audience
        self._ttl_s = ttl_s
        self._clock = clock
        self._kept_max = kept_max
        self._tokens: OrderedDict[Principal, tuple[float, str]] = OrderedDict()

    def token(self, principal: Principal) -> str:
        """A token that says: this call is made for `principal`."""
        now_s = self._clock.monotonic()
        known = self._tokens.get(principal)
        if known is not None and now_s < known[0]:
            return known[1]
        token = self._signer.sign(principal, audience=self._audience, ttl_s=self._ttl_s)
        self._tokens[principal] = (now_s + self._ttl_s / 2, token)
        self._tokens.move_to_end(principal)
        while len(self._tokens) > self._kept_max:
            self._tokens.popitem(last=False)
        return token

    def service_token(self) -> str:
        """A token for a call that this gateway makes on its own behalf."""
        return self._signer.sign_service(audience=self._audience, ttl_s=self._ttl_s)
