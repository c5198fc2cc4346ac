"""Settings of the runner."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from headrace_common.settings import CommaList, CommaPairs, ServiceSettings


class RunnerSettings(ServiceSettings):
    """What a runner can be told; HEADRACE_RUNNER_<FIELD> in the environment."""

    service: ClassVar[str] = "runner"

    name: str = Field(socket.gethostname(), min_length=1, max_length=128, description="Name of this runner for people.")
    labels: CommaPairs = Field(
        {}, description="What to know it by, as a=1,b=2; `spot=true` and `cost_per_hour=1.2` tell gateways its price."
    )
    gateways: CommaList = Field(
        (), description="Gateways' mesh listeners: host:port, or dns:///host:port for every address of a name."
    )
    registry_address: str = Field("", description="host:port of the registry's internal listener.")
    device: Literal["cpu", "cuda", "tpu", "npu"] = Field(
        "cpu", description="What this runner computes on; a backend that can must be installed."
    )
    backends_disabled: CommaList = Field((), description="Installed backends that are not used.")
    threads: int = Field(0, ge=0, le=1024, description="Processor threads for execution; 0 means all available ones.")
    queue_calls_max: int = Field(1_000, ge=0, description="Calls that may wait for one model.")
    queue_bytes_max: int = Field(256 << 20, ge=0, description="Payload bytes that may wait for one model.")
    sequence_bytes_max: int = Field(
        256 << 20, ge=0, description="Memory that the state of one model's sequences may take, bytes."
    )
    queue_ageing_s: float = Field(1.0, gt=0, description="Waiting time that raises a call by one priority, seconds.")
    execution_timeout_s: float = Field(
        60.0, gt=0, description="How long one execution may take unless the model's manifest says otherwise, seconds."
    )
    transfer_bytes_max: int = Field(512 << 20, ge=1 << 20, description="Room for large calls of all gateways, bytes.")
    cache_dir: Path = Field(
        Path(".headrace/artifacts"), description="Folder of fetched artefacts; runners may share it."
    )
    cache_bytes_max: int = Field(20 << 30, ge=1 << 20, description="Size of that folder in bytes.")
    fetch_bytes_per_s: int = Field(
        40 << 20, ge=0, description="Artefact bytes fetched a second while calls are served; 0 means no bound."
    )
    model_memory_bytes_max: int = Field(
        0, ge=0, description="Memory that loaded models may take in bytes; 0 means half of what the process may use."
    )
    model_load_timeout_s: float = Field(
        300.0, gt=0, description="How long one model may load, download not counted, s."
    )
    model_warm_up_timeout_s: float = Field(
        10.0, gt=0, description="How long the first executions of a model may take, part of its load, seconds."
    )
    model_stay_min_s: float = Field(30.0, ge=0, description="How long a loaded model stays at least, seconds.")
    model_idle_max_s: float = Field(3_600.0, gt=0, description="How long a model stays without a call, seconds.")

    @field_validator("labels")
    @classmethod
    def _named(cls, labels: dict[str, str]) -> dict[str, str]:
        if not all(labels):
            raise ValueError("a label has no name")
        return labels
