"""Who a certificate of the mesh says that its holder is: a URI among its names.

`spiffe://<trust domain>/runner`, `…/runner/<name>`, `…/tenant/<tenant>/runner`, `…/tenant/<tenant>/runner/<name>`;
other services have `spiffe://<trust domain>/<service>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_TRUST_DOMAIN = "headrace"
_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TENANT = re.compile(r"[a-z][a-z0-9-]{1,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerIdentity:
    """A runner by its certificate.

    Attributes:
        uri: The whole name.
        tenant: Whose dedicated runner it is; empty for a shared one.
        name: The only name that it may have; empty means any.
    """

    uri: str
    tenant: str = ""
    name: str = ""


def service_uri(service: str, *, tenant: str = "", name: str = "", trust_domain: str = DEFAULT_TRUST_DOMAIN) -> str:
    """The URI for a certificate. Raises ValueError where a part can't stand in one."""
    if not _DOMAIN.fullmatch(trust_domain):
        raise ValueError(f"a trust domain has lower-case letters, digits, dots and dashes, not {trust_domain!r}")
    if tenant and not _TENANT.fullmatch(tenant):
        raise ValueError(f"a tenant has 2 to 63 lower-case letters, digits or dashes, a letter first, not {tenant!r}")
    for part in (service, name):
        if part and (not _SEGMENT.fullmatch(part) or set(part) == {"."}):
            raise ValueError(f"a name in a certificate has letters, digits, dots and dashes, not {part!r}")
    path = [*(("tenant", tenant) if tenant else ()), service, *((name,) if name else ())]
    return f"spiffe://{trust_domain}/" + "/".join(path)


def runner_identity(uri: str, *, trust_domain: str = DEFAULT_TRUST_DOMAIN) -> RunnerIdentity | None:
    """The runner that the URI names, or None: another service, another trust domain, or no such URI."""
    scheme, _, rest = uri.partition("://")
    domain, _, path = rest.partition("/")
    if scheme != "spiffe" or domain != trust_domain:
        return None
    match path.split("/"):
        case ["runner"]:
            tenant, name = "", ""
        case ["runner", name]:
            tenant = ""
        case ["tenant", tenant, "runner"]:
            name = ""
        case ["tenant", tenant, "runner", name]:
            pass
        case _:
            return None
    try:
        known = service_uri("runner", tenant=tenant, name=name, trust_domain=trust_domain) == uri
    except ValueError:
        return None
    return RunnerIdentity(uri=uri, tenant=tenant, name=name) if known else None
