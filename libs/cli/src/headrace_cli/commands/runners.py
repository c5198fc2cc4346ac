"""`headrace runners`: who computes."""

from __future__ import annotations

import typer
from rich.text import Text

from headrace.gateway.v1 import mesh_pb2, mesh_pb2_grpc
from headrace_cli.commands.session import (
    DEFAULT_API_KEY,
    ApiKey,
    AsJson,
    Endpoint,
    Timeout,
    connect,
    print_json,
)
from headrace_cli.presentation import enum_text, size_text, table
from headrace_cli.terminal import output

app = typer.Typer(help="The runners behind a gateway.", no_args_is_help=True)


@app.command("list")
def list_runners(
    endpoint: Endpoint = None,
    api_key: ApiKey = DEFAULT_API_KEY,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """List the runners with the models that they have in memory."""
    with connect(endpoint, api_key, timeout_s=timeout) as connection:
        stub = mesh_pb2_grpc.MeshServiceStub(connection.channel)
        answer = connection.call(stub.ListRunners, mesh_pb2.ListRunnersRequest())
    if as_json:
        print_json(answer)
        return
    shown = table("runner", "state", "device", ">calls", ">queued", ">memory", "models")
    for runner in answer.runners:
        models = ", ".join(
            f"{model.model}:{model.version}"
            + (
                ""
                if model.state == mesh_pb2.MODEL_STATE_LOADED
                else f" ({enum_text(mesh_pb2.ModelState, model.state)})"
            )
            for model in runner.models
        )
        shown.add_row(
            Text(runner.name or runner.id, style="name"),
            enum_text(mesh_pb2.RunnerState, runner.state),
            runner.device_type,
            str(runner.in_flight),
            str(runner.queue_depth),
            size_text(runner.model_memory_bytes),
            Text(models),
        )
    console = output()
    console.print(shown if answer.runners else Text("no runner is connected to this gateway"))
    console.print(Text(f"as seen by gateway {answer.gateway_id}", style="quiet"))
