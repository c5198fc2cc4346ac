"""Messages as JSON and back."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_client.contracts.headrace.quota.v1 import quotas_pb2
from headrace_client.contracts.headrace.registry.v1 import manifest_pb2, models_pb2
from headrace_client.contracts.inference import model_config_pb2, model_repository_pb2, model_statistics_pb2
from headrace_client.errors import ValidationError
from headrace_gateway.http.proto_documents import document_of, message_of


def test_whole_numbers_are_numbers_wherever_they_are() -> None:
    version = models_pb2.Version(model="m", version=3, size_bytes=1 << 40)
    version.files.add(path="model.onnx", size_bytes=7)
    version.manifest.inputs.add(name="x", shape=[-1, 4])
    version.create_time.seconds = 1
    document = document_of(version)
    assert (document["version"], document["sizeBytes"], document["files"][0]["sizeBytes"]) == (3, 1 << 40, 7)
    assert document["manifest"]["inputs"][0]["shape"] == [-1, 4]
    assert document["createTime"] == "1970-01-01T00:00:01Z"
    statistics = model_statistics_pb2.ModelStatistics(name="m")
    statistics.response_stats["0"].success.count = 5
    assert document_of(statistics, snake_case=True)["response_stats"]["0"]["success"] == {"count": 5, "ns": 0}
    config = model_config_pb2.ModelConfig()
    config.dynamic_batching.priority_queue_policy[1].default_timeout_microseconds = 9
    batching = document_of(config, snake_case=True)["dynamic_batching"]
    assert batching["priority_queue_policy"]["1"]["default_timeout_microseconds"] == 9


def test_what_is_empty_is_there_and_what_is_absent_is_not() -> None:
    document = document_of(models_pb2.Model(name="m"))
    assert document == {"name": "m", "description": "", "metadata": {}, "latestVersion": 0}
    assert document_of(model_repository_pb2.RepositoryIndexResponse(), snake_case=True) == {"models": []}


def test_a_document_comes_back_as_the_message_that_it_was() -> None:
    version = models_pb2.Version(model="m", version=1 << 60, state=models_pb2.VERSION_STATE_READY)
    version.manifest.task = manifest_pb2.MODEL_TASK_EMBED
    version.create_time.nanos = 5_000_000
    assert message_of(models_pb2.Version, document_of(version)) == version


@pytest.mark.parametrize(
    "document",
    [{"nme": "m"}, {"name": 1}, {"name": None, "pageSize": 1}, {"metadata": {"a": {}}}, {"metadata": []}],
)
def test_fields_that_do_not_fit_are_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        message_of(models_pb2.CreateModelRequest, document)
    assert caught.value.reason == "FIELD_INVALID"
    assert "headrace" not in caught.value.message


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"limits": ["r"]}, "limits[0] has no field named 'r'"),
        ({"limits": [{"amount": "x"}]}, "limits.amount can't hold this value"),
        ({"limits": [{"resource": "FUN"}]}, "limits.resource can't hold this value"),
        ({"tenantId": 5}, "tenantId can't hold this value"),
        ({"x" * 99: 1}, f"the body has no field named '{'x' * 64}'"),
    ],
)
def test_what_is_no_such_message_is_said_in_our_words(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        message_of(quotas_pb2.SetLimitsRequest, document)
    assert caught.value.message == message
