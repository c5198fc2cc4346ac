"""The policies of keys over the model RPCs that another service answers: each names its model in its first message."""

from __future__ import annotations

from google.protobuf.message import DecodeError, Message

from headrace.registry.v1 import models_pb2 as pb
from headrace_common.catalogue import MODEL_NOT_FOUND, REQUEST_MALFORMED
from headrace_common.errors import ModelError, ValidationError
from headrace_common.principal import Principal
from headrace_gateway.model_access import WRITE, require_action, sees

_READS: dict[str, type[Message]] = {
    "GetModel": pb.GetModelRequest,
    "GetVersion": pb.GetVersionRequest,
    "ListVersions": pb.ListVersionsRequest,
    "DownloadVersion": pb.DownloadVersionRequest,
}
_WRITES: dict[str, type[Message]] = {
    "CreateModel": pb.CreateModelRequest,
    "UploadVersion": pb.UploadVersionRequest,
    "ArchiveVersion": pb.ArchiveVersionRequest,
}
_LISTING = "ListModels"
# What may be there, and looks absent, before anything is said of writing it.
_OF_WHAT_IS_THERE = frozenset((*_READS, "ArchiveVersion"))


class ModelGuard:
    """Refuses what a key's policies don't allow, and leaves out of listings what they don't let it see.

    Args:
        method: Name of the method.

    Raises:
        ValueError: nobody has said what the method does with which model.
    """

    def __init__(self, method: str) -> None:
        request = _READS.get(method) or _WRITES.get(method)
        if request is None and method != _LISTING:
            raise ValueError(f"{method} has no guard")
        self._method = method
        self._request = request

    def check(self, principal: Principal, request: bytes) -> None:
        """Looks at the first message of a call.

        Raises:
            ModelError: MODEL_NOT_FOUND (NOT_FOUND), just as for a model that isn't there.
            AuthError: POLICY_FORBIDDEN (PERMISSION_DENIED).
            ValidationError: REQUEST_MALFORMED (INVALID_ARGUMENT).
        """
        if not principal.policies or self._request is None:
            return
        try:
            model = _model_of(self._request.FromString(request))
        except DecodeError:
            raise ValidationError("the request is malformed", entry=REQUEST_MALFORMED) from None
        if self._method in _OF_WHAT_IS_THERE and not sees(principal.policies, model):
            raise ModelError(f"model '{model}' was not found", entry=MODEL_NOT_FOUND, context={"model": model})
        if self._method in _WRITES:
            require_action(principal.policies, WRITE, model)

    def shown(self, principal: Principal, response: bytes) -> bytes:
        """What the caller may see of a response: a page of a listing may have less than it was asked for."""
        if not principal.policies or self._method != _LISTING:
            return response
        page = pb.ListModelsResponse.FromString(response)
        kept = [model for model in page.models if sees(principal.policies, model.name)]
        return pb.ListModelsResponse(models=kept, next_page_token=page.next_page_token).SerializeToString()


def _model_of(request: Message) -> str:
    if isinstance(request, pb.UploadVersionRequest):
        return request.header.model
    if isinstance(request, (pb.CreateModelRequest, pb.GetModelRequest)):
        return request.name
    assert isinstance(
        request,
        (pb.GetVersionRequest, pb.ListVersionsRequest, pb.DownloadVersionRequest, pb.ArchiveVersionRequest),
    )
    return request.model
