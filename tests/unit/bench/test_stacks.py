"""Samples of py-spy are told apart by whose code ran."""

from __future__ import annotations

from headrace_bench.stacks import Costs, Frame, costs_of

MAIN = "<module> (headrace_gateway/__main__.py:18);Runner.run (asyncio/runners.py:118);run_forever (loop.c:33192)"
CALL = f"{MAIN};Endpoint._respond (headrace_gateway/inference/endpoint.py:91)"


def of(*stacks: str) -> Costs:
    return costs_of("\n".join(f"{stack} 1" for stack in stacks))


def test_sample_counts_for_the_nearest_owner_above_it() -> None:
    costs = of(
        f"{CALL};info (structlog/_native.py:3);write (libc.so.6)",
        f"{CALL};0x7f01 (grpc/_cython/cygrpc.cpython-311-x86_64-linux-gnu.so);sendmsg (libc.so.6)",
        f"{CALL};0x7f01 (grpc/_cython/cygrpc.cpython-311-x86_64-linux-gnu.so);malloc (libc.so.6)",
        f"{CALL};uuid4 (uuid.py:723);getrandom (libc.so.6)",
        f"{MAIN};uv__read (stream.c:10);recv (libc.so.6)",
        f"{MAIN};task_step_impl (_asynciomodule.c:2704)",
        "upb_strtable_lookup2 (_message.abi3.so)",
        "0x7f01 (libpython3.11.so.1.0)",
    )
    assert costs.owners == {
        "system calls of structlog": 1,
        "system calls of grpc": 1,
        "grpc": 1,
        "headrace_gateway/inference/endpoint.py": 1,
        "system calls of uvloop": 1,
        "asyncio": 1,
        "protobuf": 1,
        "the interpreter": 1,
    }


def test_waiting_threads_are_no_cost() -> None:
    costs = of(
        f"{MAIN};epoll_wait (libc.so.6)",
        "run (threading.py:982);PyThread_acquire_lock_timed (libpython3.so);0x7f1 (libc.so.6);0x7f2 (libc.so.6)",
        f"{CALL};sendmsg (libc.so.6)",
    )
    assert (costs.working, costs.waiting) == (1, 2)
    assert costs.functions == {"sendmsg (libc.so.6)": 1}


def test_lines_and_addresses_of_one_function_are_added_up() -> None:
    costs = of(f"{CALL};0x7f01 (grpc/cygrpc.so)", f"{CALL};0x7f02 (grpc/cygrpc.so)", CALL.replace(":91", ":99"))
    assert costs.functions == {
        "… (grpc/cygrpc.so)": 2,
        "Endpoint._respond (headrace_gateway/inference/endpoint.py)": 1,
    }


def test_recursion_counts_once_for_what_a_function_called() -> None:
    costs = costs_of(f"{CALL};Endpoint._respond (headrace_gateway/inference/endpoint.py:95);write (libc.so.6) 7")
    assert costs.called["Endpoint._respond (headrace_gateway/inference/endpoint.py)"] == 7


def test_frame_without_a_place_is_kept() -> None:
    assert Frame.parse("process 12:python") == Frame("process 12:python", "")
