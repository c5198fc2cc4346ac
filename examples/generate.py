"""Generates text token by token: with the SDK, and with nothing but gRPC's generated stubs.

    .venv/bin/python examples/generate.py [--endpoint HOST:PORT] [--api-key KEY] [PROMPT]

The temperature is 0, so both print the same words. The second is what a client in another language does.
"""

from __future__ import annotations

import argparse
import sys

import grpc

from headrace.gateway.v1.generation_pb2 import GenerateRequest, SamplingParameters
from headrace.gateway.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_client import Client, HeadraceError

MODEL = "smollm2"


def with_the_sdk(client: Client, prompt: str, max_tokens: int) -> None:
    """Prints text as it comes. Leaving the block early would end the call, also where it runs."""
    with client.generate(MODEL, prompt, max_tokens=max_tokens, temperature=0, timeout_s=120) as generation:
        for delta in generation:
            print(delta.text, end="", flush=True)
    assert generation.usage is not None and generation.timings is not None
    tokens, seconds = generation.usage.completion_tokens, generation.timings.generation_s
    print(f"\n-- {tokens} tokens, the first after {generation.timings.time_to_first_token_s:.2f} s", end="")
    print(f", then {(tokens - 1) / seconds:.1f}/s" if seconds else "", end="")
    print(f"; ended by {generation.finish_reason}")


def with_stubs(endpoint: str, api_key: str, prompt: str, max_tokens: int) -> None:
    """One request, a stream of responses; breaking out of the loop and `call.cancel()` would end it."""
    request = GenerateRequest(
        model_name=MODEL, text=prompt, sampling=SamplingParameters(max_tokens=max_tokens, temperature=0)
    )
    with grpc.insecure_channel(endpoint) as channel:
        call = InferenceServiceStub(channel).Generate(request, metadata=(("x-api-key", api_key),), timeout=120)
        for response in call:
            for delta in response.deltas:
                print(delta.text, end="", flush=True)
            if response.HasField("usage"):
                usage = response.usage
                print(f"\n-- {usage.prompt_tokens} tokens in, {usage.completion_tokens} out", end="")
                print(f", on {response.execution.runner}")


def main() -> int:
    """Reads the command line; the exit status is 1 when the mesh refuses or can't be reached."""
    parser = argparse.ArgumentParser(description="Generate text token by token.")
    parser.add_argument("prompt", nargs="?", default="Once upon a time", help="default: %(default)s")
    parser.add_argument("--max-tokens", type=int, default=32, metavar="N", help="default %(default)s")
    parser.add_argument("--endpoint", default="127.0.0.1:8081", help="gateway, default %(default)s")
    parser.add_argument("--api-key", default="community", help="default %(default)s")
    options = parser.parse_args()
    try:
        with Client(options.endpoint, api_key=options.api_key) as client:
            with_the_sdk(client, options.prompt, options.max_tokens)
        with_stubs(options.endpoint, options.api_key, options.prompt, options.max_tokens)
    except HeadraceError as error:
        print(error, file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"{error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
