"""What an API key is, how one is made, and what may be said of one. Pure: clock and randomness are given."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from random import Random

from headrace_common import catalogue
from headrace_common.errors import TenantError, ValidationError
from headrace_quota.resource_policies import ResourcePolicy, check_policies
from headrace_quota.tenants import NAME_CHARS_MAX, check_text

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PREFIX_CHARS = 8
# 43 characters out of 62 hold 256 bits.
_SECRET_CHARS = 43
_FOREIGN_PREFIX_CHARS = 4
_GIVEN_KEY_CHARS_MIN = 32
_GIVEN_KEY_CHARS_MAX = 256

_OWN_FORM = re.compile(rf"(hr_[0-9A-Za-z]{{{_PREFIX_CHARS}}})_[0-9A-Za-z]{{32,}}")
_GIVEN_FORM = re.compile(rf"[\x21-\x7e]{{{_GIVEN_KEY_CHARS_MIN},{_GIVEN_KEY_CHARS_MAX}}}")


class Role(StrEnum):
    """What a key may do. Declared weakest first; each includes the ones before it."""

    VIEWER = "viewer"
    USER = "user"
    MODEL_ADMIN = "model_admin"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is stored of a key; the key itself is not. Times are aware UTC datetimes."""

    id: str
    tenant_id: str
    display_name: str
    prefix: str
    sha256: bytes
    roles: tuple[Role, ...]
    create_time: datetime
    expire_time: datetime | None
    revoke_time: datetime | None
    policies: tuple[ResourcePolicy, ...] = ()
    last_use_time: datetime | None = None
    rotated_from: str | None = None

    def works_at(self, now: datetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoke_time is None and (self.expire_time is None or self.expire_time > now)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDraft:
    """A key that is about to be stored."""

    id: str
    tenant_id: str
    display_name: str
    prefix: str
    sha256: bytes
    roles: tuple[Role, ...]
    expire_time: datetime | None
    policies: tuple[ResourcePolicy, ...] = ()
    rotated_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A key that is to follow another one, which is not read yet.

    Attributes:
        former_id: The other key.
        overlap: How long that one still works, at most.
        expire_time: When the new one stops working by itself; None means never.
    """

    former_id: str
    material: KeyMaterial
    overlap: timedelta
    expire_time: datetime | None

    def draft(self, former: ApiKey, now: datetime) -> KeyDraft:
        """The new key: it is and may do what the former one is and may do.

        Raises:
            TenantError: KEY_ENDED (FAILED_PRECONDITION): the former one doesn't work any more.
        """
        if not former.works_at(now):
            raise key_ended(former.id)
        return KeyDraft(
            id=str(uuid.uuid4()),
            tenant_id=former.tenant_id,
            display_name=former.display_name,
            prefix=self.material.prefix,
            sha256=self.material.sha256,
            roles=former.roles,
            expire_time=self.expire_time,
            policies=former.policies,
            rotated_from=former.id,
        )

    def former_ends(self, former: ApiKey, now: datetime) -> datetime:
        """When the former key stops working: after the overlap, and no later than it would have."""
        end = now + self.overlap
        return end if former.expire_time is None else min(end, former.expire_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMaterial:
    """A key in the clear, with what is kept of it. Its text form shows the prefix only."""

    key: str
    prefix: str

    @classmethod
    def mint(cls, random: Random) -> KeyMaterial:
        """A new key: `hr_`, 8 characters that are shown again, `_`, and 43 (256 bits) that never are.

        `random` must be a `random.SystemRandom` outside of tests.
        """
        prefix = "hr_" + "".join(random.choices(_ALPHABET, k=_PREFIX_CHARS))
        return cls(key=prefix + "_" + "".join(random.choices(_ALPHABET, k=_SECRET_CHARS)), prefix=prefix)

    @classmethod
    def given(cls, key: str) -> KeyMaterial:
        """A key that somebody else made, of our form or another one.

        Raises:
            ValueError: not 32 to 256 printable ASCII characters without a space.
        """
        if _GIVEN_FORM.fullmatch(key) is None:
            raise ValueError(
                f"a key must have {_GIVEN_KEY_CHARS_MIN} to {_GIVEN_KEY_CHARS_MAX} printable ASCII characters "
                "and no space"
            )
        own = _OWN_FORM.fullmatch(key)
        return cls(key=key, prefix=own[1] if own is not None else key[:_FOREIGN_PREFIX_CHARS])

    @property
    def sha256(self) -> bytes:
        """What is stored and looked up: 32 bytes.

        A fast hash is right here. Slow, salted hashes protect secrets that people choose, because those can be
        guessed; 256 random bits can't be, whatever the hash costs. And gateways look keys up by this digest on
        every call, which needs a digest without a salt that costs microseconds.
        """
        return hashlib.sha256(self.key.encode("ascii")).digest()

    def __repr__(self) -> str:
        return f"KeyMaterial(prefix={self.prefix!r})"


def draft_key(
    *,
    material: KeyMaterial,
    tenant_id: str,
    display_name: str,
    roles: Iterable[Role],
    expire_time: datetime | None,
    now: datetime,
    policies: Sequence[ResourcePolicy] = (),
) -> KeyDraft:
    """Checks what is asked of a new key and gives it an id. No roles means `user`.

    Raises:
        ValidationError: INVALID_ARGUMENT, naming the field and its limit.
    """
    check_text(display_name, field="display_name", chars_max=NAME_CHARS_MAX)
    check_expiry(expire_time, now)
    wanted = ordered_roles(roles) or (Role.USER,)
    return KeyDraft(
        id=str(uuid.uuid4()),
        tenant_id=tenant_id,
        display_name=display_name,
        prefix=material.prefix,
        sha256=material.sha256,
        roles=wanted,
        expire_time=expire_time,
        policies=check_policies(policies, administers=Role.ADMIN in wanted),
    )


def check_expiry(expire_time: datetime | None, now: datetime) -> None:
    """Raises FIELD_INVALID (INVALID_ARGUMENT) for an end that is not in the future."""
    if expire_time is not None and expire_time <= now:
        raise ValidationError(
            "expire_time must be in the future",
            entry=catalogue.FIELD_INVALID,
            context={"field": "expire_time"},
            field="expire_time",
        )


def ordered_roles(roles: Iterable[Role]) -> tuple[Role, ...]:
    """Each role once, weakest first, whatever order and repetition they were given in."""
    wanted = set(roles)
    return tuple(role for role in Role if role in wanted)


def checked_key_id(key_id: str) -> str:
    """The id in its canonical form.

    Raises:
        ValidationError: FIELD_REQUIRED or FIELD_INVALID (INVALID_ARGUMENT).
    """
    if not key_id:
        raise ValidationError("id is required", entry=catalogue.FIELD_REQUIRED, context={"field": "id"}, field="id")
    try:
        return str(uuid.UUID(key_id))
    except ValueError:
        raise ValidationError(
            "id must be the UUID of a key, not the key itself",
            entry=catalogue.FIELD_INVALID,
            context={"field": "id"},
            field="id",
        ) from None


def key_not_found(key_id: str) -> TenantError:
    """NOT_FOUND. Absent and foreign keys get this same failure, byte for byte."""
    return TenantError(
        f"API key '{key_id}' was not found",
        entry=catalogue.KEY_NOT_FOUND,
        context={"key_id": key_id},
    )


def key_ended(key_id: str) -> TenantError:
    """FAILED_PRECONDITION: what was revoked or has expired stays so; a key after it is a new one."""
    return TenantError(
        f"API key '{key_id}' is revoked or has expired; make a new one",
        entry=catalogue.KEY_ENDED,
        context={"key_id": key_id},
    )


def key_limit_reached(tenant_id: str, limit: int) -> TenantError:
    """RESOURCE_EXHAUSTED: the tenant has `limit` keys that work; gateways hold all of them in memory."""
    return TenantError(
        f"tenant '{tenant_id}' has {limit} active API keys, the most it may have; revoke one first",
        entry=catalogue.KEY_LIMIT_REACHED,
        context={"tenant": tenant_id, "limit": limit},
    )
