"""What a person can do about a failure, by its reason."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import cast

_BY_REASON = {
    "UNREACHABLE": "Start a mesh with `headrace up`, or name another one with --endpoint or --profile.",
    "MODEL_NOT_FOUND": "`headrace models list` shows the models of this key's tenant.",
    "MODEL_VERSION_NOT_FOUND": "`headrace models show NAME` lists the versions; without :VERSION the newest is taken.",
    "MODEL_FILE_NOT_FOUND": "`headrace models show NAME:VERSION` lists the files.",
    "CREDENTIAL_MISSING": "Give a key: --api-key KEY or @FILE, HEADRACE_API_KEY, or `api_key` of a profile.",
    "CREDENTIAL_UNKNOWN": "Check the key of --api-key, HEADRACE_API_KEY or the profile; it belongs to one mesh only.",
    "KEY_REVOKED": "Use another key; an admin makes one with `headrace keys create`.",
    "KEY_EXPIRED": "Use another key; an admin makes one with `headrace keys create`.",
    "ROLE_FORBIDDEN": "Use a key with that role. The admin key of a local mesh: --api-key @.headrace/secrets/admin.key",
    "METHOD_FORBIDDEN": "Use an admin key of the operators. That of a local mesh: "
    "--api-key @.headrace/secrets/admin.key",
    "TENANT_NOT_FOUND": "`headrace tenants list` shows the tenants.",
    "KEY_NOT_FOUND": "`headrace keys list` shows the ids of the tenant's keys.",
    "RUNNER_NOT_FOUND": "`headrace runners list` shows the runners.",
    "RUNNER_NOT_AVAILABLE": "`headrace runners list` shows the runners; one must have the model's backend.",
    "CALL_TIMEOUT": "Give it more time with --timeout.",
    "INFERENCE_TIMEOUT": "Give it more time with --timeout, or send less.",
    "MODEL_LOAD_TIMEOUT": "Give it more time with --timeout; `headrace runners list` shows the state of the load.",
    "TENSOR_SHAPE_MISMATCH": "`headrace models show` tells the shapes; * there means any size.",
    "TENSOR_NAME_UNKNOWN": "`headrace models show` tells the inputs.",
    "TENSOR_MISSING": "`headrace models show` tells the inputs; repeat --input for each.",
    "TENSOR_DATATYPE_MISMATCH": "`headrace models show` tells the datatypes; convert the values first.",
    "TENSOR_OUTPUT_UNKNOWN": "`headrace models show` tells the outputs; without --output all come back.",
    "MODEL_TASK_MISMATCH": "`headrace models show` tells the task: `generate` and `chat` are for models that generate, "
    "`embed` for those that embed, `infer` for all others.",
    "CONTEXT_LENGTH_EXCEEDED": "Shorten the prompt; in a chat /clear begins anew.",
    "GENERATION_INTERRUPTED": "Ask again.",
    "CONFIG_FILE_INVALID": "Correct the profile file, or name another one with HEADRACE_CONFIG.",
    "SECRET_UNAVAILABLE": "Check that the file is there and that you may read it.",
    "SETTING_INVALID": "Correct the option, the variable or the profile.",
    "FIELD_INVALID": "",
    "USAGE": "`headrace COMMAND --help` shows what can be given.",
    "LOCAL_FILE": "",
    "RESTART": "The logs in the state directory say more; what was not restarted goes on as it was.",
    "AUDIT_BROKEN": "Keep the database as it is, and find out who could write to it.",
    "DEFECT": "This is a defect of the command. HEADRACE_DEBUG=1 shows where it happened; please report it.",
}
"""In this command's words; an empty one means that the message says it all."""


def remedy(reason: str) -> str:
    """One sentence, or nothing where the catalogue of this command's version doesn't know the reason."""
    own = _BY_REASON.get(reason)
    if own is not None:
        return own
    catalogue = cast("dict[str, str]", json.loads((files("headrace_cli") / "remedies.json").read_text()))
    return catalogue.get(reason, "")
