"""Backends from outside: an installed package adds one, and its faults stay its own."""

from __future__ import annotations

import importlib
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np
import pytest

from headrace.registry.v1.manifest_pb2 import ArtifactFormat, Manifest
from headrace_common import catalogue
from headrace_common.errors import ConfigError, HeadraceError
from headrace_common.testing import FakeClock
from headrace_runner.backends.discovery import BackendSet, discover
from headrace_runner.device import describe_cpu, memory_limit_bytes, open_device, resident_bytes
from headrace_runner.nvidia import has_cuda_device
from support.artifacts import version_of
from support.eventually import eventually
from support.runner import failure_of, running_host

MODULE = '''
import threading

from headrace_runner.backends.contract import Availability, BackendHealth, Capabilities
from headrace_runner.tensors.signature import TensorSpec


class Doubler:
    """Takes any file; doubles `x`. The number 13 breaks it, a file that says so can't be loaded."""

    def available(self):
        return Availability(("cpu",))

    def load(self, artifact_dir, files, manifest, device_type, threads):
        if (artifact_dir / files[0]).read_bytes() == b"refuse":
            raise ZeroDivisionError("secret path /tmp/x")
        return Model()


class Model:
    inputs = [TensorSpec("x", "INT64", (-1,))]
    outputs = [TensorSpec("z", "INT64", (-1,))]
    memory_bytes = 12345
    closed = 0

    def infer(self, inputs, outputs, parameters):
        if 13 in inputs["x"]:
            raise ZeroDivisionError("secret path /tmp/x")
        return [inputs["x"] * parameters.get("factor", 2)]

    def close(self):
        Model.closed += 1


class Sick(Doubler):
    """Says what it can do, and how it is."""

    state = "well"
    goes_on = threading.Event()

    def capabilities(self):
        return Capabilities(streaming=True, batching=False, quantization=("ternary",))

    def health(self, device_type):
        if Sick.state == "raises":
            raise ZeroDivisionError("secret path /tmp/x")
        if Sick.state == "hangs":
            Sick.goes_on.wait()
        return BackendHealth(Sick.state != "ill", "the abacus is jammed" if Sick.state == "ill" else "")


class Absent:
    def available(self):
        return Availability((), "the package abacus is not installed")


def broken():
    raise RuntimeError("can't be made")
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with the backends `doubler`, `absent` and `broken`."""
    site = tmp_path / "site"
    metadata = site / "doubling-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: doubling\nVersion: 1.0\n")
    names = {"doubler": "Doubler", "absent": "Absent", "sick": "Sick", "broken": "broken", "missing": "Missing"}
    lines = [f"{name} = doubling:{target}" for name, target in names.items()]
    (metadata / "entry_points.txt").write_text("[headrace.backends]\n" + "\n".join(lines) + "\n")
    (site / "doubling.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(site))


@pytest.mark.usefixtures("plugin")
def test_an_installed_package_adds_a_backend_and_broken_ones_are_left_out() -> None:
    assert {"doubler", "absent", "onnxruntime"} <= discover(()).keys()
    assert not {"broken", "missing"} & discover(()).keys()
    assert "doubler" not in discover(["doubler"])
    backends = BackendSet(backends=discover(()), device_type="cpu")
    assert [name for name in backends.names if name != "llamacpp"] == ["doubler", "onnxruntime", "sick"]
    assert backends.unavailable == {"absent": "the package abacus is not installed"}
    with pytest.raises(HeadraceError) as caught:
        backends.choose(Manifest(backend="absent"))
    assert caught.value.entry is catalogue.BACKEND_MISSING
    assert "abacus" in caught.value.message
    with pytest.raises(HeadraceError) as caught:
        backends.choose(Manifest())
    assert caught.value.entry is catalogue.MODEL_FORMAT_UNSUPPORTED
    assert backends.choose(Manifest(format=ArtifactFormat.ARTIFACT_FORMAT_ONNX))


@pytest.mark.usefixtures("plugin")
def test_a_backend_for_another_device_is_not_used() -> None:
    backends = BackendSet(backends=discover(()), device_type="tpu")
    assert backends.names == []
    assert backends.unavailable["doubler"] == "it computes on cpu, this runner on tpu"
    with pytest.raises(ConfigError) as caught:
        backends.require_one()
    for words in ("HEADRACE_RUNNER_DEVICE is tpu", "absent: the package abacus is not installed", "doubler: it comp"):
        assert words in caught.value.message


@pytest.mark.usefixtures("plugin")
async def test_backends_tell_what_they_can_do_and_how_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_runner.backends.health.PERIOD_S", 0.1)
    async with running_host(tmp_path / "cache") as runner:
        told = {backend.name: backend for backend in runner.host.backend_info()}
        assert told["absent"].reason == "the package abacus is not installed"
        assert not told["absent"].healthy
        # One that says nothing of itself counts as healthy, and as able to share executions.
        assert (told["doubler"].healthy, told["doubler"].capabilities.batching) == (True, True)
        sick = told["sick"].capabilities
        assert (sick.streaming, sick.batching, list(sick.quantization)) == (True, False, ["ternary"])
        onnx = told["onnxruntime"]
        assert (onnx.version, "cpu" in onnx.capabilities.device_types) == (installed_version("onnxruntime"), True)

        def health(name: str) -> tuple[bool, str]:
            (found,) = (backend for backend in runner.host.load().backend_info if backend.name == name)
            return found.healthy, found.reason

        module = importlib.import_module("doubling")
        for state, words in (("ill", "the abacus is jammed"), ("raises", "log says why"), ("hangs", "does not return")):
            module.Sick.state = state
            await eventually(lambda words=words: not health("sick")[0] and words in health("sick")[1])
            # A check that a busy machine holds up for three rounds looks like one that hangs, until it returns.
            await eventually(lambda: health("onnxruntime") == health("doubler") == (True, ""))
            assert runner.metric("backend_healthy", backend="sick") == 0
        module.Sick.state = "well"
        module.Sick.goes_on.set()
        await eventually(lambda: health("sick") == (True, ""))


@pytest.mark.usefixtures("plugin")
async def test_what_a_backend_did_is_told_also_after_its_model_has_left(tmp_path: Path) -> None:
    async with running_host(tmp_path / "cache") as runner:

        def metrics() -> dict[str, float]:
            (found,) = (backend for backend in runner.host.load().backend_info if backend.name == "doubler")
            return dict(found.metrics)

        version = version_of("twice", {"any": b"file"}, manifest=Manifest(backend="doubler"))
        runner.artifacts.files["any"] = b"file"
        runner.want(version)
        await runner.settled(version.uid)
        await runner.infer(version, x=np.array([1, 2]))
        await failure_of(runner.infer(version, x=np.array([13])))
        before = metrics()
        assert {"models_loaded": 1.0, "calls": 2.0, "failures": 1.0, "executions": 1.0}.items() <= before.items()
        runner.host.release(version.uid)
        await eventually(lambda: metrics()["models_loaded"] == 0)
        assert metrics() == {**before, "models_loaded": 0.0}


@pytest.mark.usefixtures("plugin")
async def test_a_foreign_backend_serves_and_its_faults_reach_callers_in_our_words(tmp_path: Path) -> None:
    async with running_host(tmp_path / "cache") as runner:
        manifest = Manifest(backend="doubler")
        version = version_of("twice", {"any": b"file"}, manifest=manifest)
        runner.artifacts.files["any"] = b"file"
        runner.want(version)
        await runner.settled(version.uid)
        assert runner.events[-1].memory_bytes == 12345
        assert (await runner.infer(version, x=np.array([1, 2])))["z"].tolist() == [2, 4]
        error = await failure_of(runner.infer(version, x=np.array([13])))
        assert error.entry is catalogue.MODEL_EXECUTION_FAILED
        assert "secret" not in error.message
        assert (await runner.infer(version, x=np.array([3])))["z"].tolist() == [6]
        assert runner.host.load().in_flight == 0
        runner.artifacts.files["any"] = b"refuse"
        refused = version_of("refused", {"any": b"refuse"}, manifest=manifest)
        runner.want(refused)
        await eventually(lambda: runner.states(refused.uid)[-1:] == ["FAILED"])
        error = await failure_of(runner.settled(refused.uid))
        assert error.entry is catalogue.MODEL_LOAD_FAILED
        assert "secret" not in error.message


def test_the_device_knows_its_name_and_memory() -> None:
    device = describe_cpu()
    assert device.type == "cpu"
    assert device.name
    assert 0 < resident_bytes() < memory_limit_bytes() == device.memory_bytes


@pytest.mark.parametrize("device_type", ["cuda", "tpu", "npu"])
def test_a_device_that_tells_nothing_of_itself_has_its_type_and_no_gauges(
    device_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_driver(_name: str) -> None:
        raise OSError("cannot open shared object file")

    monkeypatch.setattr("headrace_runner.nvidia.ctypes.CDLL", no_driver)
    device, gauges = open_device(device_type, threads=2, clock=FakeClock())
    assert (device.type, device.name, device.memory_bytes, gauges.read()) == (device_type, "", 0, {})
    assert not has_cuda_device()
