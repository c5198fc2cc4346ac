"""A good call of each RPC of the Open Inference service."""

from __future__ import annotations

import numpy as np

from headrace_common import wire
from inference import model_repository_pb2 as repository
from inference import model_statistics_pb2 as statistics
from inference import open_inference_pb2 as oip
from support import onnx_models
from support.rpc_cases import World, case

INFERENCE = "inference.GRPCInferenceService"


@case(f"{INFERENCE}/ServerLive")
def server_live(world: World) -> None:
    assert world.owner(world.owner.inference.ServerLive, oip.ServerLiveRequest()).live


@case(f"{INFERENCE}/ServerReady")
def server_ready(world: World) -> None:
    assert world.owner(world.owner.inference.ServerReady, oip.ServerReadyRequest()).ready


@case(f"{INFERENCE}/ServerMetadata")
def server_metadata(world: World) -> None:
    answer = world.owner(world.owner.inference.ServerMetadata, oip.ServerMetadataRequest())
    assert (answer.name, answer.version.count(".")) == ("headrace", 2)
    assert {"statistics", "model_repository", "classification"} <= set(answer.extensions)


@case(f"{INFERENCE}/ModelReady")
def model_ready(world: World) -> None:
    assert world.owner(world.owner.inference.ModelReady, oip.ModelReadyRequest(name=world.model, version="1")).ready


@case(f"{INFERENCE}/ModelMetadata")
def model_metadata(world: World) -> None:
    answer = world.owner(world.owner.inference.ModelMetadata, oip.ModelMetadataRequest(name=world.model))
    assert (answer.name, list(answer.versions), answer.platform) == (world.model, ["1"], "onnxruntime_onnx")
    assert [(spec.name, spec.datatype, list(spec.shape)) for spec in answer.inputs] == [("x", "FP32", [-1, 16])]
    assert [(spec.name, spec.datatype, list(spec.shape)) for spec in answer.outputs] == [("z", "FP32", [-1, 16])]


ROWS = np.arange(32, dtype=np.float32).reshape(2, 16)


def request_of(world: World, request_id: str) -> oip.ModelInferRequest:
    return oip.ModelInferRequest(
        model_name=world.model,
        id=request_id,
        inputs=[oip.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=ROWS.shape)],
        raw_input_contents=[ROWS.tobytes()],
    )


def check_answer(world: World, answer: oip.ModelInferResponse) -> None:
    assert (answer.model_name, answer.model_version) == (world.model, "1")
    product = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)
    np.testing.assert_allclose(product, ROWS @ onnx_models.tiny_weights(), rtol=1e-5, atol=1e-5)


@case(f"{INFERENCE}/ModelInfer")
def model_infer(world: World) -> None:
    sent = request_of(world, "seven")
    answer = world.owner.infer(sent)
    assert answer.id == "seven"
    check_answer(world, answer)
    sent.parameters["binary_data_output"].bool_param = False
    typed = world.owner.infer(sent)
    assert not typed.raw_output_contents
    assert list(typed.outputs[0].contents.fp32_contents) == np.frombuffer(answer.raw_output_contents[0], "<f4").tolist()


@case(f"{INFERENCE}/ModelStreamInfer")
def model_stream_infer(world: World) -> None:
    # More than a stream takes at once, and nothing is read until all are sent: the rest waits in the transport.
    sent = [request_of(world, str(number)) for number in range(2_000)]
    sent[1_000].model_name = "absent"
    answers = list(world.owner(world.owner.inference.ModelStreamInfer, iter(sent)))
    assert sorted(int(answer.infer_response.id) for answer in answers) == list(range(2_000))
    for answer in answers:
        assert answer.infer_response.parameters["triton_final_response"].bool_param
        if answer.infer_response.id == "1000":
            assert answer.error_message == "model 'absent' was not found"
        else:
            assert not answer.error_message
            check_answer(world, answer.infer_response)


@case(f"{INFERENCE}/ModelConfig")
def model_config(world: World) -> None:
    config = world.owner(world.owner.inference.ModelConfig, oip.ModelConfigRequest(name=world.model)).config
    assert (config.name, config.platform, config.backend) == (world.model, "onnxruntime_onnx", "onnxruntime")
    assert [(tensor.name, list(tensor.dims)) for tensor in (*config.input, *config.output)] == [
        ("x", [16]),
        ("z", [16]),
    ]
    assert config.max_batch_size > 0


@case(f"{INFERENCE}/ModelStatistics")
def model_statistics(world: World) -> None:
    def counters(name: str) -> statistics.ModelStatistics:
        answer = world.owner(world.owner.inference.ModelStatistics, statistics.ModelStatisticsRequest(name=name))
        return next(entry for entry in answer.model_stats if (entry.name, entry.version) == (world.model, "1"))

    before = counters("")
    for _ in range(3):
        world.owner.infer(request_of(world, ""))
    after = counters(world.model)
    assert after.inference_stats.success.count - before.inference_stats.success.count == 3
    assert (after.inference_count - before.inference_count, after.execution_count - before.execution_count) == (6, 3)
    assert [place.type for place in after.memory_usage] == ["CPU"]


def state_of(world: World, *, ready: bool = False) -> str | None:
    """What the repository says of the model."""
    request = repository.RepositoryIndexRequest(ready=ready)
    models = world.owner(world.owner.inference.RepositoryIndex, request).models
    return next((model.state for model in models if model.name == world.model), None)


@case(f"{INFERENCE}/RepositoryIndex")
def repository_index(world: World) -> None:
    model_infer(world)
    assert (state_of(world), state_of(world, ready=True)) == ("READY", "READY")


@case(f"{INFERENCE}/RepositoryModelLoad")
def repository_model_load(world: World) -> None:
    unload(world)
    answer = world.owner(
        world.owner.inference.RepositoryModelLoad, repository.RepositoryModelLoadRequest(model_name=world.model)
    )
    assert state_of(world, ready=True) == "READY"
    assert answer.SerializeToString() == kserve_answer(world)
    # KServe's clients name the model in field 1.
    sent = wire.encode_len_field(1, world.model.encode())
    assert world.owner.raw(f"/{INFERENCE}/RepositoryModelLoad", sent) == kserve_answer(world)


@case(f"{INFERENCE}/RepositoryModelUnload")
def repository_model_unload(world: World) -> None:
    model_infer(world)
    unload(world)
    assert (state_of(world), state_of(world, ready=True)) == ("UNAVAILABLE", None)
    sent = wire.encode_len_field(1, world.model.encode())
    assert world.owner.raw(f"/{INFERENCE}/RepositoryModelUnload", sent) == kserve_answer(world)
    model_infer(world)


def unload(world: World) -> None:
    request = repository.RepositoryModelUnloadRequest(model_name=world.model)
    world.owner(world.owner.inference.RepositoryModelUnload, request)


def kserve_answer(world: World) -> bytes:
    """`model_name` and `isLoaded` or `isUnloaded` as KServe's messages have them."""
    return wire.encode_len_field(1, world.model.encode()) + wire.encode_varint_field(2, 1)
