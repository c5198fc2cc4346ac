"""A whole mesh whose services know each other by certificates, which are replaced while it serves."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from headrace_client import Client
from headrace_client.errors import HeadraceError
from support import onnx_models
from support.folders import open_folder
from support.mesh import HEADRACE, Mesh, running_mesh

pytestmark = [pytest.mark.fault, pytest.mark.timeout(400)]
X = np.ones((1, 4), np.float32)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


class Caller:
    """Calls a model and lists what the registry has, one after the other, until told to stop."""

    def __init__(self, mesh: Mesh) -> None:
        self.done = 0
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(mesh,))
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(120)

    def _run(self, mesh: Mesh) -> None:
        with Client(mesh.grpc, api_key=mesh.api_key, timeout_s=60) as client:
            while not self._stop.is_set():
                try:
                    client.infer("m", {"x": X})
                    client.models.list()
                    self.done += 1
                except HeadraceError as error:
                    self.failed.append(repr(error))


def until(condition: Callable[[], object], *, within_s: float = 120.0) -> None:
    give_up_at = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def taken(mesh: Mesh) -> dict[str, float]:
    """How often each service took other certificates."""
    found: dict[str, float] = {}
    for process in mesh.current_processes().values():
        if process.metrics is None:
            continue
        with urllib.request.urlopen(process.metrics, timeout=30) as page:  # noqa: S310 - the mesh's own
            lines = page.read().decode().splitlines()
        for line in lines:
            if line.startswith('headrace_tls_reloads_total{outcome="taken"'):
                found[process.name] = float(line.rpartition(" ")[2])
    return found


def test_certificates_are_replaced_while_calls_go_on_and_strangers_stay_out(folder: Path) -> None:
    services = {"gateway-0", "quota", "registry", "runner-0"}
    with running_mesh(folder, "--tls", "--runners", "1", "--no-samples") as mesh:
        with Client(mesh.grpc, api_key=mesh.api_key, timeout_s=60) as client:
            client.models.push(onnx_models.identity(), name="m")
            client.infer("m", {"x": X})
        caller = Caller(mesh)
        try:
            until(lambda: caller.done > 5)
            renew = [str(HEADRACE), "certs", "renew", "--dir", str(mesh.state_dir / "secrets" / "tls")]
            subprocess.run(renew, check=True, capture_output=True, timeout=120)
            until(lambda: taken(mesh) == dict.fromkeys(services, 1.0))
            before = caller.done
            until(lambda: caller.done > before + 20)
        finally:
            caller.stop()
        assert caller.failed == []
        processes = mesh.current_processes()
        for name in ("quota", "registry"):
            address = processes[name].grpc
            assert address is not None
            trusting = grpc.ssl_channel_credentials((mesh.state_dir / "secrets" / "tls" / "ca.crt").read_bytes())
            for channel in (grpc.insecure_channel(address), grpc.secure_channel(address, trusting)):
                with channel, pytest.raises(grpc.RpcError):
                    channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=30)
        # Whoever begins now has the new certificates only.
        psutil.Process(processes["runner-0"].pid).send_signal(signal.SIGKILL)
        until(lambda: mesh.current_processes()["runner-0"].pid != processes["runner-0"].pid)
        with Client(mesh.grpc, api_key=mesh.api_key, timeout_s=120) as client:
            until(lambda: _answers(client))


def _answers(client: Client) -> bool:
    try:
        return client.infer("m", {"x": X}) is not None
    except HeadraceError:
        return False
