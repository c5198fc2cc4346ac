"""What the policies of a key let it do with a model. A key without policies may do all that its roles allow."""

from __future__ import annotations

from headrace_common.catalogue import POLICY_FORBIDDEN
from headrace_common.errors import AuthError
from headrace_common.principal import ModelPolicy

INFER, WRITE = "infer", "write"
_NAME_CHARS_MAX = 256

Policies = tuple[ModelPolicy, ...]


def sees(policies: Policies, model: str) -> bool:
    """Whether a model is there for whoever has these policies: each of them lets its models be read."""
    return not policies or any(policy.is_about(model) for policy in policies)


def require_action(policies: Policies, action: str, model: str) -> None:
    """Refuses what none of the policies allows.

    Raises:
        AuthError: POLICY_FORBIDDEN (PERMISSION_DENIED).
    """
    if policies and not any(action in policy.actions and policy.is_about(model) for policy in policies):
        shown = model[:_NAME_CHARS_MAX]
        raise AuthError(
            f"the key's policies don't allow to {action} with model '{shown}'",
            entry=POLICY_FORBIDDEN,
            context={"action": action, "model": shown},
        )
