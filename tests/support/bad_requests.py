"""Bad requests for an inference, bad messages, and callers who may not call."""

from __future__ import annotations

from headrace.quota.v1 import tenants_pb2 as quota
from headrace_common import catalogue as errors
from inference import open_inference_pb2 as oip
from support.bad_calls import FLOATS, ROW, SUM, SUM_FILE, X, Y, bad, calling, infer, inferring, tensor
from support.parties import chunks, header

INFERENCE = "/inference.GRPCInferenceService"
MODELS = "/headrace.registry.v1.ModelService"
TENANTS = "/headrace.quota.v1.TenantService"
CAP = 64 << 20

INFERENCES = {
    "unknown model": inferring(infer(model_name="absent"), errors.MODEL_NOT_FOUND, None, "'absent'"),
    "unknown version": inferring(infer(model_version="99"), errors.MODEL_VERSION_NOT_FOUND, None, SUM, "99"),
    "version in words": inferring(infer(model_version="new"), errors.MODEL_VERSION_INVALID, "model_version", "from 1"),
    "version in words, asked for readiness": calling(
        "inference",
        "ModelReady",
        oip.ModelReadyRequest(name=SUM, version="new"),
        errors.MODEL_VERSION_INVALID,
        "version",
    ),
    "no model": inferring(infer(model_name=""), errors.FIELD_REQUIRED, "model_name"),
    "no model, asked for metadata": calling(
        "inference", "ModelMetadata", oip.ModelMetadataRequest(), errors.FIELD_REQUIRED, "name"
    ),
    "wrong tensor name": inferring(
        infer(tensor("a"), Y), errors.TENSOR_NAME_UNKNOWN, "inputs[0].name", "'a'", "'x', 'y'"
    ),
    "wrong datatype": inferring(
        infer(X, tensor("y", datatype="INT32")), errors.TENSOR_DATATYPE_MISMATCH, "inputs[1].datatype", "INT32", "FP32"
    ),
    "datatype of no protocol": inferring(
        infer(tensor("x", datatype="FLOAT"), Y), errors.TENSOR_DATATYPE_UNSUPPORTED, "inputs[0].datatype", "FP32"
    ),
    "wrong rank": inferring(
        infer(tensor("x", (4,)), Y), errors.TENSOR_SHAPE_MISMATCH, "inputs[0].shape", "[4]", "[-1, 4]"
    ),
    "wrong size": inferring(
        infer(X, tensor("y", (1, 5))), errors.TENSOR_SHAPE_MISMATCH, "inputs[1].shape", "[1, 5]", "[-1, 4]"
    ),
    "rows that differ between inputs": inferring(
        infer(tensor("x", (2, 4)), Y, raw=(ROW * 2, ROW)),
        errors.TENSOR_SHAPE_MISMATCH,
        "inputs[1].shape",
        "1 rows",
        "'x' 2",
    ),
    "negative size": inferring(
        infer(tensor("x", (-1, 4)), Y), errors.TENSOR_DIMENSION_INVALID, "inputs[0].shape", "-1"
    ),
    "beyond any memory": inferring(
        infer(tensor("x", (1 << 62, 4)), Y), errors.TENSOR_DIMENSION_INVALID, "inputs[0].shape", str(1 << 48)
    ),
    "a byte too few": inferring(
        infer(raw=(ROW, ROW[1:])), errors.TENSOR_BYTES_MISMATCH, "raw_input_contents[1]", "15", "16"
    ),
    "a byte too many": inferring(
        infer(raw=(ROW + b"!", ROW)), errors.TENSOR_BYTES_MISMATCH, "raw_input_contents[0]", "17", "16"
    ),
    "an element too few": inferring(
        infer(tensor("x", (2, 4), contents=FLOATS), tensor("y", (2, 4), contents=FLOATS), raw=()),
        errors.TENSOR_BYTES_MISMATCH,
        None,
        "'x'",
        "4 elements",
        "8",
    ),
    "elements in the wrong list": inferring(
        infer(
            tensor("x", contents=oip.InferTensorContents(int_contents=[1, 2, 3, 4])),
            tensor("y", contents=FLOATS),
            raw=(),
        ),
        errors.TENSOR_CONTENT_TYPE_MISMATCH,
        None,
        "'x'",
        "fp32_contents",
        "int_contents",
    ),
    "missing tensor": inferring(infer(X, raw=(ROW,)), errors.TENSOR_MISSING, "inputs", "'y'"),
    "extra tensor": inferring(infer(X, Y, tensor("w"), raw=(ROW,) * 3), errors.TENSOR_NAME_UNKNOWN, "inputs[2].name"),
    "a tensor twice": inferring(infer(X, Y, X, raw=(ROW,) * 3), errors.TENSOR_DUPLICATED, "inputs[2].name", "'x'"),
    "both content forms": inferring(
        infer(tensor("x", contents=FLOATS), Y),
        errors.TENSOR_CONTENT_CONFLICT,
        "inputs[0].contents",
        "raw_input_contents",
    ),
    "neither content form": inferring(infer(raw=()), errors.TENSOR_CONTENT_MISSING, "inputs[0].contents", "'x'"),
    "raw contents for one of two": inferring(
        infer(raw=(ROW,)), errors.TENSOR_RAW_COUNT_MISMATCH, "raw_input_contents", "2 inputs", "1 raw"
    ),
    "unknown output": inferring(
        infer(outputs=[oip.ModelInferRequest.InferRequestedOutputTensor(name="q")]),
        errors.TENSOR_OUTPUT_UNKNOWN,
        "outputs[0].name",
        "'q'",
        "'z'",
    ),
}

MESSAGES = {
    f"malformed bytes for {path}": bad(
        lambda world, path=path: world.acme.raw(path, b"\x0a\xff\xff"), errors.REQUEST_MALFORMED
    )
    for path in (
        f"{INFERENCE}/ModelInfer",
        f"{INFERENCE}/ModelReady",
        f"{MODELS}/GetModel",
        f"{TENANTS}/GetTenant",
        "/headrace.gateway.v1.MeshService/ListRunners",
    )
} | {
    "malformed bytes in an upload": bad(
        lambda world: world.acme.raw_stream(f"{MODELS}/UploadVersion", b"\x0a\xff\xff"), errors.REQUEST_MALFORMED
    ),
    "text that is no UTF-8": bad(
        lambda world: world.acme.raw(f"{INFERENCE}/ModelInfer", b"\x0a\x02\xff\xfe"), errors.REQUEST_MALFORMED
    ),
    "a byte above the cap": bad(
        lambda world: world.acme.raw(f"{INFERENCE}/ModelInfer", bytes(CAP + 1)),
        errors.MESSAGE_TOO_LARGE,
        None,
        str(CAP),
        str(CAP + 1),
    ),
    "twice the cap": bad(
        lambda world: world.acme.raw(f"{INFERENCE}/ModelInfer", bytes(2 * CAP)),
        errors.MESSAGE_TOO_LARGE,
        None,
        str(CAP),
    ),
    "above the cap for the registry": bad(
        lambda world: world.acme.raw(f"{MODELS}/CreateModel", bytes(CAP + (1 << 20))),
        errors.MESSAGE_TOO_LARGE,
        None,
        str(CAP),
    ),
    "above the cap in an upload": bad(
        lambda world: world.acme.raw_stream(f"{MODELS}/UploadVersion", bytes(CAP + (1 << 20))),
        errors.MESSAGE_TOO_LARGE,
        None,
        str(CAP),
    ),
    "above the cap without a key": bad(
        lambda world: world.nobody.raw(f"{INFERENCE}/ModelInfer", bytes(CAP + 1)), errors.CREDENTIAL_MISSING
    ),
}

CALLERS = {
    "no key": bad(lambda world: world.nobody.infer(infer()), errors.CREDENTIAL_MISSING, None, "x-api-key"),
    "unknown key": bad(
        lambda world: world.with_key(("x-api-key", f"hr_{'a' * 8}_{'b' * 43}")).infer(infer()),
        errors.CREDENTIAL_UNKNOWN,
    ),
    "key with spaces": bad(
        lambda world: world.with_key(("x-api-key", "two words")).infer(infer()),
        errors.CREDENTIAL_MALFORMED,
        None,
        "256",
    ),
    "two keys": bad(
        lambda world: world.with_key(("x-api-key", "a"), ("authorization", "Bearer b")).infer(infer()),
        errors.CREDENTIAL_MALFORMED,
    ),
    "another scheme": bad(
        lambda world: world.with_key(("authorization", "Basic YTpi")).infer(infer()), errors.CREDENTIAL_MALFORMED
    ),
    "revoked key": bad(lambda world: world.revoked.infer(infer()), errors.KEY_REVOKED),
    "suspended tenant": bad(lambda world: world.suspended.infer(infer()), errors.TENANT_SUSPENDED),
    "suspended tenant pushes": bad(
        lambda world: world.suspended.upload([header(SUM, SUM_FILE), *chunks(SUM_FILE)]), errors.TENANT_SUSPENDED
    ),
    "role too weak": bad(lambda world: world.viewer.infer(infer()), errors.ROLE_FORBIDDEN, None, "'user'"),
    "tenant's admin makes a tenant": calling(
        "tenants", "CreateTenant", quota.CreateTenantRequest(id="more"), errors.ROLE_FORBIDDEN, None, "'default'"
    ),
}
