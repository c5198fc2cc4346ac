"""What a backend must offer. A third party ships one as a package with an entry point in `headrace.backends`.

The entry point names a class (or function) without arguments that makes a `Backend`; its name is the backend's name.
Importing the module must not fail where the framework is missing: import the framework inside `available` and `load`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from headrace.registry.v1.manifest_pb2 import Manifest
from headrace_common.errors import HeadraceError
from headrace_runner.backends.generation import GenerativeModel
from headrace_runner.tensors.datatypes import Array
from headrace_runner.tensors.parameters import ParameterValue
from headrace_runner.tensors.signature import RawInput, TensorSpec

ENTRY_POINT_GROUP = "headrace.backends"


@dataclass(frozen=True, slots=True)
class Availability:
    """What a backend can do in this process.

    Attributes:
        device_types: Device types that it can compute on, most preferred first: `cpu`, `cuda`, `tpu`, `npu`.
            Empty means that it can't be used.
        reason: Why it can't be used and what would change that; empty when it can.
        version: Version of the framework under it; empty where it isn't known.
    """

    device_types: tuple[str, ...]
    reason: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend's models can do, told to operators. The defaults hold for a backend that doesn't say.

    Attributes:
        streaming: Whether it answers in parts while it computes.
        batching: Whether rows of several requests may share an execution.
        quantization: Kinds of quantised models that it runs, for example `int8`.
        interruption: Whether an execution that runs can be stopped.
    """

    streaming: bool = False
    batching: bool = True
    quantization: tuple[str, ...] = ()
    interruption: bool = False


@dataclass(frozen=True, slots=True)
class BackendHealth:
    """Whether a backend works now; a runner whose backend doesn't gets no calls for it.

    Attributes:
        reason: Why it doesn't, and what would change that; empty when it does.
    """

    healthy: bool = True
    reason: str = ""


@runtime_checkable
class TakesInstead(Protocol):
    """A model that has an input in whose place a request may bring what it is made of."""

    @property
    def instead(self) -> RawInput:
        """That, and the name of the input."""
        ...


class LoadedModel(Protocol):
    """A model in memory. `infer` is called from as many threads at once as the model has instances."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """Inputs as the artefact states them."""
        ...

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Outputs as the artefact states them."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Memory that the model is known to take; 0 where the backend can't tell and the runner shall measure."""
        ...

    def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], parameters: Mapping[str, ParameterValue]
    ) -> Sequence[Array]:
        """Computes one request. Blocks; must let other threads run meanwhile.

        Args:
            inputs: Every required input, datatypes and shapes checked against the manifest. Arrays are C-contiguous,
                may be read-only and unaligned, and are valid only until the method returns. BYTES elements are
                `bytes`; BF16 elements are uint16 bit patterns.
            outputs: Names of the wanted outputs.
            parameters: The request's parameters; ignore unknown ones.

        Returns:
            The outputs in the order wanted, BYTES elements as `bytes` or `str`. They are sent from where they lie, so
            nobody may write to them again.

        Raises:
            HeadraceError: For example MODEL_EXECUTION_FAILED; anything else is reported as that, without its text.
        """
        ...

    def close(self) -> None:
        """Frees the model. Called once, when no `infer` runs."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """A `LoadedModel` whose executions can be stopped. Optional, but without it an endless execution has no end."""

    def interrupt(self, thread_id: int | None = None) -> None:
        """Makes every `infer` that runs now raise soon, or only the one that was called in that thread.

        Later ones are not affected. May be called in any thread and again; doesn't block.
        """
        ...


@runtime_checkable
class MayFail(Protocol):
    """A model that can be lost for good while it is in memory. Optional."""

    @property
    def failure(self) -> HeadraceError | None:
        """Why it computes nothing any more, and won't by itself; None while it may. The runner then unloads it."""
        ...


class Backend(Protocol):
    """Loads artefacts of some formats."""

    def available(self) -> Availability:
        """Probes what the backend can do here. Cheap after the first call; never raises."""
        ...

    def load(
        self, artifact_dir: Path, files: Sequence[str], manifest: Manifest, device_type: str, threads: int
    ) -> LoadedModel | GenerativeModel:
        """Loads an artefact. Blocks.

        Args:
            artifact_dir: Folder of the artefact; its digests have been checked. Don't write into it.
            files: Paths of the artefact's files inside the folder.
            manifest: How the registry describes the artefact.
            device_type: Where to compute: one of `available().device_types`.
            threads: Processor threads that one execution may use, at least 1.

        Raises:
            HeadraceError: For example MODEL_LOAD_FAILED; anything else is reported as that, without its text.
        """
        ...


@runtime_checkable
class EstimatesMemory(Protocol):
    """A `Backend` that knows how much memory a model will take. Optional; others take some more than their files."""

    def memory_needed(self, artifact_dir: Path, files: Sequence[str], manifest: Manifest) -> int:
        """Bytes, about, that the artefact takes once it is loaded. Blocks, for some hundred milliseconds at most.

        Raises:
            HeadraceError: The artefact can't be loaded, as `Backend.load` would say.
        """
        ...


@runtime_checkable
class TellsProgress(Protocol):
    """A `Backend` that can tell how far a load is. Optional."""

    def load_progress(self, artifact_dir: Path) -> float:
        """Part of the artefact that is in memory, about, from 0 to 1. Asked while `load` runs, in any thread, at once.

        Args:
            artifact_dir: The folder that `load` was given.
        """
        ...


@runtime_checkable
class DescribesItself(Protocol):
    """A `Backend` that says what it can do. Optional."""

    def capabilities(self) -> Capabilities:
        """The same at every call. Asked once, after `available`."""
        ...


@runtime_checkable
class ChecksItself(Protocol):
    """A `Backend` that can tell whether it works. Optional; others count as healthy."""

    def health(self, device_type: str) -> BackendHealth:
        """Finds out whether models can be run on `device_type`, for example by running a tiny one.

        Called every second in a thread of its own, never twice at once. It should take milliseconds; one that raises,
        or doesn't return for seconds, makes the backend unhealthy.
        """
        ...
