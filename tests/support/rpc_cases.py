"""The register of calls that every public RPC must have, and the world that they are made in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import grpc

from headrace.registry.v1 import models_pb2 as registry
from support.parties import Operator, Party, Tenant


@dataclass(frozen=True, kw_only=True)
class World:
    """Who calls: the admin of a tenant with a model, and the operator of the mesh."""

    channel: grpc.Channel
    tenant: Tenant
    owner: Party
    operator: Operator
    model: str
    file: bytes
    version: registry.Version


Answered = Callable[[World], None]
CASES: dict[str, Answered] = {}


def case(method: str) -> Callable[[Answered], Answered]:
    """Marks what calls a method and checks its answer."""

    def add(check: Answered) -> Answered:
        CASES[method] = check
        return check

    return add
