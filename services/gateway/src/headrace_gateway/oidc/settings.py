"""What a gateway is told of the issuer of its callers' tokens."""

from __future__ import annotations

from urllib.parse import urlsplit

from headrace_common.addresses import is_loopback
from headrace_common.catalogue import SETTING_INVALID, SETTING_MISSING
from headrace_common.errors import ConfigError
from headrace_common.principal import ROLES
from headrace_gateway.config import GatewaySettings
from headrace_gateway.oidc.issuer_keys import ALGORITHMS, refused_algorithms
from headrace_gateway.oidc.token_rules import TokenRules


def token_rules(settings: GatewaySettings) -> TokenRules | None:
    """What tokens must say, or None where no issuer is set.

    Raises:
        ConfigError: SETTING_MISSING or SETTING_INVALID, naming the variable.
    """
    if settings.oidc_issuer is None:
        return None
    for name in ("oidc_audience", "oidc_jwks"):
        if getattr(settings, name) is None:
            raise _wrong(name, f"must be set, because {settings.variable('oidc_issuer')} is", missing=True)
    assert settings.oidc_audience is not None and settings.oidc_jwks is not None
    _check_location(settings.oidc_jwks)
    refused = refused_algorithms(settings.oidc_algorithms)
    if refused or not settings.oidc_algorithms:
        raise _wrong("oidc_algorithms", f"may name {', '.join(ALGORITHMS)}, not {', '.join(refused) or 'nothing'}")
    for word, role in settings.oidc_roles.items():
        if not word or role not in ROLES:
            raise _wrong("oidc_roles", f"must be word=role,… with {', '.join(ROLES)}; '{word}={role}' is not")
    return TokenRules(
        issuer=settings.oidc_issuer,
        audience=settings.oidc_audience,
        algorithms=frozenset(settings.oidc_algorithms),
        skew_s=settings.oidc_clock_skew_s,
        tenant_claim=settings.oidc_tenant_claim,
        roles_claim=settings.oidc_roles_claim,
        roles=settings.oidc_roles,
    )


def _check_location(location: str) -> None:
    if "://" not in location:
        return
    parts = urlsplit(location)
    local = parts.scheme == "http" and parts.hostname is not None and is_loopback(f"{parts.hostname}:80")
    if not (parts.scheme == "https" and parts.hostname) and not local:
        raise _wrong("oidc_jwks", "must be a path, an https URL, or an http URL of this machine")


def _wrong(field: str, why: str, *, missing: bool = False) -> ConfigError:
    variable = GatewaySettings.variable(field)
    return ConfigError(
        f"{variable} {why}", entry=SETTING_MISSING if missing else SETTING_INVALID, context={"variable": variable}
    )
