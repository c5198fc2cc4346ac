"""Options that several commands have, written down once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, get_type_hints

P = ParamSpec("P")
T = TypeVar("T")


def shares(
    options: Callable[..., None], make: Callable[..., T]
) -> Callable[[Callable[Concatenate[T, P], None]], Callable[..., None]]:
    """Gives a command the parameters of `options`, after its own ones, as typer reads them.

    Args:
        options: Its parameters are the options; it is never called.
        make: Given their values, makes what the command receives as its first argument.
    """
    shared = list(inspect.signature(options).parameters.values())
    shared_hints = get_type_hints(options, include_extras=True)

    def sharing(command: Callable[Concatenate[T, P], None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        first, *own = inspect.signature(command).parameters.values()
        del first  # Is what `make` makes.

        @functools.wraps(command)
        def called(*given: Any, **arguments: Any) -> None:
            made = make(**{parameter.name: arguments.pop(parameter.name) for parameter in shared})
            command(made, *given, **arguments)  # pyright: ignore[reportCallIssue]

        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=known[parameter.name])
            for known, group in ((hints, own), (shared_hints, shared))
            for parameter in group
        ]
        signature: Any = inspect.Signature(parameters, return_annotation=None)
        called.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return called

    return sharing
