"""An issuer of tokens: keys, what it publishes of them, and tokens of any form."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

ISSUER = "https://login.example/realm"
AUDIENCE = "headrace"


class Issuer:
    """One RSA key `r`, one EC key `e` and one Ed25519 key `d`."""

    def __init__(self) -> None:
        self.rsa = RSAKey.generate_key(2048, {"kid": "r"})
        self.ec = ECKey.generate_key("P-256", {"kid": "e", "use": "sig"})
        self.ed = OKPKey.generate_key("Ed25519", {"kid": "d", "alg": "Ed25519"})

    def published(self, *more: Any) -> bytes:
        """The JWK set, with further entries."""
        return json.dumps(
            {"keys": [*(key.as_dict(private=False) for key in (self.rsa, self.ec, self.ed)), *more]}
        ).encode()

    def claims(self, now: float, **changed: Any) -> dict[str, Any]:
        """Those of a good token that lives 300 s; None takes one away."""
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "ada@example",
            "iat": int(now),
            "exp": int(now) + 300,
            "tenant": "acme",
            "roles": ["user"],
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, claims: Any, **header: Any) -> str:
        """Signed as the header says, which says RS256 with the key `r` unless told otherwise."""
        said = {"alg": "RS256", "kid": "r", "typ": "JWT", **header}
        said = {name: value for name, value in said.items() if value is not None}
        keys: dict[str, Any] = {"RS": self.rsa, "PS": self.rsa, "ES": self.ec, "Ed": self.ed}
        key = keys.get(str(said.get("alg"))[:2], self.rsa)
        return signed(said, claims, key, algorithm=said["alg"])


def signed(header: dict[str, Any], claims: Any, key: Any, *, algorithm: str) -> str:
    """A token whose signature is real, whatever its header says."""
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    text = f"{encoded(json.dumps(header).encode())}.{encoded(payload)}"
    signer = jws.JWSRegistry(algorithms=[algorithm]).get_alg(algorithm)
    return f"{text}.{encoded(signer.sign(text.encode(), key))}"


def with_public_key_as_secret(issuer: Issuer, claims: dict[str, Any]) -> str:
    """HS256 with the text of the public RSA key: the oldest trick."""
    header = {"alg": "HS256", "kid": "r", "typ": "JWT"}
    text = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims).encode())}"
    return f"{text}.{encoded(hmac.digest(issuer.rsa.as_pem(private=False), text.encode(), 'sha256'))}"


def encoded(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
