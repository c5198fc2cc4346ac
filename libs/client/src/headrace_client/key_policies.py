"""What a key may do with which models, as people write it: `infer+read:model-a,model-b`."""

from __future__ import annotations

from headrace_client.contracts.headrace.quota.v1 import tenants_pb2
from headrace_client.errors import ValidationError


def policy(text: str) -> tenants_pb2.ResourcePolicy:
    """The policy that a text says.

    Args:
        text: Actions (`infer`, `read`, `write`) with `+` between; then, unless all models are meant, `:` and names of
            models with commas between. A name that ends in `*` means all that begin so.

    Raises:
        ValidationError: an action is unknown.
    """
    actions, _, models = text.partition(":")
    return tenants_pb2.ResourcePolicy(
        actions=[_action(name) for name in actions.split("+")], models=models.split(",") if models else ()
    )


def _action(name: str) -> tenants_pb2.Action.ValueType:
    try:
        return tenants_pb2.Action.Value(f"ACTION_{name.strip().upper()}")
    except ValueError:
        raise ValidationError(f"there is no action '{name}', only infer, read and write", field="policies") from None
