"""Whose things a caller may know of, and what it may do: the same for tenants, keys, limits and usage."""

from __future__ import annotations

from headrace_common import catalogue
from headrace_common.errors import AuthError
from headrace_common.principal import Principal
from headrace_quota.api_keys import Role
from headrace_quota.tenants import OPERATORS_TENANT, check_tenant_id, tenant_not_found


def is_operator(principal: Principal) -> bool:
    """Whether the caller runs the mesh: an admin of the tenant `default`."""
    return principal.tenant_id == OPERATORS_TENANT and Role.ADMIN in principal.roles


def visible_tenant(caller: Principal, tenant_id: str, *, field: str) -> str:
    """The tenant that is meant, if the caller may know of it; the caller's own where no id is given.

    Raises:
        TenantError: TENANT_ID_INVALID (INVALID_ARGUMENT), TENANT_NOT_FOUND (NOT_FOUND) for foreign tenants.
    """
    if not tenant_id:
        return caller.tenant_id
    check_tenant_id(tenant_id, field=field)
    if tenant_id != caller.tenant_id and not is_operator(caller):
        raise tenant_not_found(tenant_id)
    return tenant_id


def require_admin(caller: Principal) -> None:
    """Raises ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an admin of the own tenant."""
    if Role.ADMIN not in caller.roles:
        raise AuthError(
            "this needs the role admin",
            entry=catalogue.ROLE_FORBIDDEN,
            context={"required": Role.ADMIN.value},
        )


def require_operator(caller: Principal) -> None:
    """Raises ROLE_FORBIDDEN (PERMISSION_DENIED) for who doesn't run the mesh."""
    if not is_operator(caller):
        raise AuthError(
            f"this needs the role admin in the tenant '{OPERATORS_TENANT}'",
            entry=catalogue.ROLE_FORBIDDEN,
            context={"required": Role.ADMIN.value},
        )
