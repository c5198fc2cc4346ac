"""`headrace up`: the whole life of one mesh, from the lock on its folder to the last process that ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path

from rich.text import Text

from headrace_cli.mesh.assembly import MeshAssembly
from headrace_cli.mesh.control import Control
from headrace_cli.mesh.failure import MeshError
from headrace_cli.mesh.first_request import FileType, ask_file_type, client_of, wait_until_complete
from headrace_cli.mesh.gauges import until_joined
from headrace_cli.mesh.log_files import set_aside
from headrace_cli.mesh.options import DEFAULT_GRPC_PORT, DEFAULT_HTTP_PORT, MeshOptions
from headrace_cli.mesh.orphan_guard import OrphanGuard
from headrace_cli.mesh.ready_file import ready_content, write_atomically
from headrace_cli.mesh.rolling_restart import RollingRestart
from headrace_cli.mesh.sample_models import SampleModels
from headrace_cli.mesh.state_dir import StateDir
from headrace_cli.mesh.supervisor import Supervisor
from headrace_cli.mesh.up_report import UpReport
from headrace_cli.mesh.upkeep import Upkeep
from headrace_cli.samples import Sample, available_samples
from headrace_client import AsyncClient, HeadraceError
from headrace_common.clock import Clock

API_KEY = "community"
_LANGUAGE_MODEL = "smollm2"
_LOG_CHECK_S = 10.0
_JOIN_TIMEOUT_S = 60.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal asked the mesh to stop."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


class Up:
    """One run of `headrace up`."""

    def __init__(self, *, options: MeshOptions, environ: Mapping[str, str], clock: Clock, report: UpReport) -> None:
        self._options = options
        self._environ = environ
        self._clock = clock
        self._report = report
        self._state = StateDir(options.state_dir)
        self._guard = OrphanGuard()
        self._published: list[Path] = []

    async def run(self) -> int:
        """Start, stay up, stop. The exit code is 0 when a signal ended it, 1 when the mesh could not start."""
        try:
            self._state.open()
        except MeshError as error:
            self._report.failed(error)
            return 1
        self._published = [path for path in (self._state.mesh_file, self._options.ready_file) if path]
        self._unpublish()
        self._report.headline(self._state.path)
        supervisor = Supervisor(guard=self._guard, clock=self._clock, report=self._report)
        assembly: MeshAssembly | None = None
        code = 0
        interrupted = self._watch_signals(supervisor)
        try:
            set_aside(self._state.logs)
            assembly = MeshAssembly(options=self._options, state=self._state, environ=self._environ)
            control = self._control(supervisor, assembly)
            await _unless(interrupted, self._start(supervisor, assembly, control))
            async with control.serving():
                await _unless(interrupted, self._stay(supervisor, assembly, control))
        except Interrupted as reason:
            self._report.stopping(reason.number.name)
        except MeshError as error:
            self._report.failed(error)
            code = 1
        except OSError as error:
            self._report.failed(MeshError(f"the mesh can't start: {error}"))
            code = 1
        finally:
            started_at = self._clock.monotonic()
            if assembly is not None:
                await supervisor.stop(assembly.stop_order)
                assembly.close()
            self._guard.close()
            self._unpublish()
            self._state.close()
            if assembly is not None:
                self._report.stopped(self._clock.monotonic() - started_at)
        return code

    def _watch_signals(self, supervisor: Supervisor) -> asyncio.Future[signal.Signals]:
        """The first signal stops in order, a second one ends every process at once."""
        loop = asyncio.get_running_loop()
        first: asyncio.Future[signal.Signals] = loop.create_future()

        def received(number: signal.Signals) -> None:
            if first.done():
                supervisor.kill()
            else:
                first.set_result(number)

        for number in _SIGNALS:
            loop.add_signal_handler(number, received, number)
        return first

    def _control(self, supervisor: Supervisor, assembly: MeshAssembly) -> Control:
        restart = RollingRestart(
            members=assembly.service_names,
            restart=supervisor.restart,
            settled=lambda: until_joined(assembly.gateways, runners=self._options.runners, within_s=_JOIN_TIMEOUT_S),
        )
        return Control(path=self._state.control_socket, restart=restart, clock=self._clock)

    async def _start(self, supervisor: Supervisor, assembly: MeshAssembly, control: Control) -> None:
        stages = (
            ("the stores", assembly.stores),
            ("quota and registry", [assembly.quota, assembly.registry]),
            ("gateways", assembly.gateways),
            ("runners and HTTP", [*assembly.fronts, *assembly.runners]),
        )
        for what, members in stages:
            with self._report.waiting(f"starting {what}"):
                await supervisor.start(members)
        address = assembly.public_address
        if self._options.grpc_port is None and not address.endswith(f":{DEFAULT_GRPC_PORT}"):
            self._report.notice(f"port {DEFAULT_GRPC_PORT} is taken; the gateway listens on {address} instead")
        http = assembly.http_url
        if http is not None and self._options.http_port is None and not http.endswith(f":{DEFAULT_HTTP_PORT}"):
            self._report.notice(f"port {DEFAULT_HTTP_PORT} is taken; HTTP is at {http} instead")
        models = await self._first_request(assembly)
        self._publish(supervisor, assembly, control)
        self._report.ready(
            address=address,
            http=http,
            api_key=API_KEY,
            examples=self._examples(address, http, models),
            logs=self._state.logs,
        )

    async def _first_request(self, assembly: MeshAssembly) -> list[str]:
        """See every gateway answer, register the samples, and ask magika's model something real.

        Returns:
            The names of the samples.

        Raises:
            MeshError: the mesh did not answer.
        """
        gateways, runners = assembly.gateways, self._options.runners
        client = client_of(assembly.public_address, API_KEY)
        try:
            with self._report.step("mesh") as details:
                await until_joined(gateways, runners=runners, within_s=_JOIN_TIMEOUT_S)
                await wait_until_complete(client, runners=runners)
                details.append(
                    f"{len(gateways)} gateway{'s'[: len(gateways) != 1]}, {runners} runner{'s'[: runners != 1]}"
                )
            samples = available_samples() if self._options.samples else []
            if self._options.samples and not samples:
                self._report.notice("no sample models are installed: pip install magika silero-vad")
            models = SampleModels(client=client)
            versions = await self._register(models, "samples", [sample for sample in samples if not sample.large])
            if "magika" in versions and runners > 0:
                await self._ask(client, "magika", versions["magika"])
            versions |= await self._register(models, "language models", [sample for sample in samples if sample.large])
            return list(versions)
        except (HeadraceError, TimeoutError) as error:
            raise MeshError(
                f"the mesh runs, but does not answer: {error}",
                log=self._state.logs / f"{assembly.gateway_names[0]}.log",
            ) from error
        finally:
            await client.close()

    async def _register(self, models: SampleModels, step: str, samples: Sequence[Sample]) -> dict[str, int]:
        """Versions by the samples' names; a file that is there already becomes no new version."""
        if not samples:
            return {}
        with self._report.step(step) as details:
            versions = await models.register(samples)
            details += [f"{name}:{version}" for name, version in versions.items()]
        return versions

    async def _ask(self, client: AsyncClient, model: str, version: int) -> None:
        with self._report.step("first request") as details:
            answer = await ask_file_type(client, model=model, version=version, file=Path(__file__))
            details.append(f"{model} answered in {answer.took_s * 1000:.0f} ms")
        self._report.answer([_answer_line(answer)])

    async def _stay(self, supervisor: Supervisor, assembly: MeshAssembly, control: Control) -> None:
        """Keep the published process ids current and the logs bounded, for as long as the mesh lives."""
        upkeep = Upkeep(
            publish=lambda: self._publish(supervisor, assembly, control),
            bound_logs=supervisor.bound_logs,
            notice=self._report.notice,
        )
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOG_CHECK_S):
                    await supervisor.changed.wait()
            changed = supervisor.changed.is_set()
            supervisor.changed.clear()
            await upkeep.round(changed=changed)

    def _publish(self, supervisor: Supervisor, assembly: MeshAssembly, control: Control) -> None:
        content = ready_content(
            grpc=assembly.public_address,
            http=assembly.http_url,
            api_key=API_KEY,
            pid=os.getpid(),
            control=control.path,
            processes=supervisor.processes(),
        )
        for path in self._published:
            try:
                write_atomically(path, content)
            except OSError as error:
                raise MeshError(f"the ready file {path} can't be written: {error.strerror}") from error

    def _unpublish(self) -> None:
        for path in self._published:
            # What can't be removed can't be written either, and that is said when the mesh is published.
            with contextlib.suppress(OSError):
                path.unlink()

    def _examples(self, address: str, http: str | None, models: Sequence[str]) -> list[str]:
        at = "" if address.endswith(f":{DEFAULT_GRPC_PORT}") else f" --endpoint {address}"
        command = command_name()
        generates = [
            f'{command} generate {_LANGUAGE_MODEL} "The capital of France is" --max-tokens 40{at}',
            f"{command} chat {_LANGUAGE_MODEL}{at}",
        ]
        return [
            *(generates if _LANGUAGE_MODEL in models else []),
            f"{command} models list{at}",
            f"{command} runners list{at}",
            f"{command} models push model.onnx --name my-model{at}",
            *([f"curl {http}/v1/models -H 'X-API-Key: {API_KEY}'"] if http is not None else []),
        ]


def command_name() -> str:
    """How the person who started this command would start it again from the same folder."""
    started = Path(sys.argv[0])
    found = shutil.which("headrace")
    if found is not None and started.exists() and Path(found).samefile(started):
        return "headrace"
    return os.path.relpath(started) if started.is_absolute() else str(started)


def _answer_line(answer: FileType) -> Text:
    return Text.assemble(
        (answer.file.name, "name"),
        " is ",
        (answer.label, "value"),
        f" ({answer.score:.1%}), says magika:{answer.version}",
    )


async def _unless(interrupted: asyncio.Future[signal.Signals], work: Coroutine[None, None, None]) -> None:
    """Do the work until a signal comes; then drop it.

    Raises:
        Interrupted: a signal came.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if interrupted.done():
            raise Interrupted(interrupted.result())
        task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
