"""Denoisers under `torch.compile`, whole, in place or by region: what hooks see, and how to run them without."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import nn

Look = Callable[[Sequence[Any], dict[str, Any]], None]
"""Is given the positional and the named arguments of a call."""


class Watch(Protocol):
    """Something that looks on until it is removed."""

    def remove(self) -> None: ...


def uncompiled(module: Any) -> nn.Module:
    """The module itself where ``torch.compile`` has wrapped it."""
    return getattr(module, "_orig_mod", module)


_stance_lock = threading.Lock()
_eager_now = 0


@contextmanager
def eagerly() -> Iterator[None]:
    """Run modules as they are written, compiled or not: compiled code does not see hooks that came after it.

    The stance of the compiler is one for the process, so that calls of other threads run so too meanwhile. It is given
    back when the last one leaves.
    """
    global _eager_now
    if "torch._dynamo" not in sys.modules:  # nothing can be compiled, and its import takes seconds
        yield
        return
    from torch.compiler import set_stance

    with _stance_lock:
        _eager_now += 1
        if _eager_now == 1:
            set_stance("force_eager")
    try:
        yield
    finally:
        with _stance_lock:
            _eager_now -= 1
            if _eager_now == 0:
                set_stance("default")


def watched(module: nn.Module, look: Look) -> Watch:
    """Show each call's arguments to `look` before it is made, also where the module is compiled in place."""
    if module._compiled_call_impl is not None:
        return _CompiledWatch(module, look)

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        look(args, kwargs)

    return module.register_forward_pre_hook(hook, with_kwargs=True)


class _CompiledWatch:
    """Stands before the compiled call of a module, which passes its hooks by."""

    def __init__(self, module: nn.Module, look: Look):
        self._module, self._look, self._compiled = module, look, module._compiled_call_impl
        module._compiled_call_impl = self._call

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        compiled = self._compiled
        assert compiled is not None
        self._look(args, kwargs)
        return compiled(*args, **kwargs)

    def remove(self) -> None:
        if self._module._compiled_call_impl == self._call:
            self._module._compiled_call_impl = self._compiled
