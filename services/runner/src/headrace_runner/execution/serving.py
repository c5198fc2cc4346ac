"""What answers the calls of a model version, whatever the model does."""

from __future__ import annotations

from typing import TypeAlias

from headrace_runner.execution.generation.generative_replica import GenerativeReplica
from headrace_runner.execution.replica import Replica

ServingReplica: TypeAlias = Replica | GenerativeReplica
