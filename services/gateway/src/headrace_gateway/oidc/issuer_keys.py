"""The keys that an issuer publishes, and which of them a token's header means."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias, cast

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

Key: TypeAlias = RSAKey | ECKey | OKPKey

DOCUMENT_BYTES_MAX = 1 << 20
_KEYS_MAX = 100
# 2048 bits in base64.
_RSA_MODULUS_CHARS_MIN = 342
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "Ed25519": "Ed25519"}
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", *_CURVES)
"""Those that can be pinned: public keys check them, so that none who can check a token can make one."""


class IssuerKeys:
    """Public keys by id. What can't check signatures is left out: secrets, keys for encryption, short RSA keys."""

    def __init__(self, keys: Mapping[str, Key]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def parsed(cls, document: bytes) -> IssuerKeys:
        """The keys of a JWK set.

        Raises:
            ValueError: it is none, has too many keys or none of use.
        """
        if len(document) > DOCUMENT_BYTES_MAX:
            raise ValueError(f"it has more than {DOCUMENT_BYTES_MAX} bytes")
        parsed: object = json.loads(document)
        entries: object = cast("dict[str, object]", parsed).get("keys") if isinstance(parsed, dict) else None
        if not isinstance(entries, list) or len(cast("list[object]", entries)) > _KEYS_MAX:
            raise ValueError(f"it is no JWK set of at most {_KEYS_MAX} keys")
        keys: dict[str, Key] = {}
        for entry in cast("list[object]", entries):
            key = _usable(entry)
            if key is not None:
                keys.setdefault(key.kid or "", key)
        if not keys:
            raise ValueError("it has no public key for signatures")
        return cls(keys)

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key of this id, or the only one there is; None unless it can check this algorithm."""
        if kid is None:
            key = next(iter(self._keys.values())) if len(self._keys) == 1 else None
        else:
            key = self._keys.get(kid)
        return key if key is not None and _checks(key, algorithm) else None

    def __contains__(self, kid: str) -> bool:
        return kid in self._keys


def refused_algorithms(algorithms: Collection[str]) -> list[str]:
    """Those that can't be pinned."""
    return [algorithm for algorithm in algorithms if algorithm not in ALGORITHMS]


def _usable(entry: object) -> Key | None:
    if not isinstance(entry, dict):
        return None
    fields = cast("dict[str, Any]", entry)
    if fields.get("kty") == "RSA" and len(str(fields.get("n"))) < _RSA_MODULUS_CHARS_MIN:
        return None
    try:
        key = JWKRegistry.import_key(fields)
        if not isinstance(key, (RSAKey, ECKey, OKPKey)):
            return None
        said = key.as_dict(private=False)
        if said.get("use", "sig") != "sig" or "verify" not in cast("list[str]", said.get("key_ops", ["verify"])):
            return None
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return key


def _checks(key: Key, algorithm: str) -> bool:
    said = key.as_dict(private=False)
    if said.get("alg", algorithm) != algorithm:
        return False
    curve = _CURVES.get(algorithm)
    return isinstance(key, RSAKey) if curve is None else said.get("crv") == curve
