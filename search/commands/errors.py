"""How errors leave the command line: a sentence for users, a traceback for those who ask for it."""

import sys
from typing import Any

from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from keystep.search.runtime.failures import WorkFailed, in_a_line
from keystep.search.storing.secrets import masked


class PlainErrors(TyperGroup):
    """Commands whose ValueError, OSError and WorkFailed end with exit code 2 and their message on stderr.

    Ctrl-C ends with exit code 130 and, where the work can go on, how far it was; out of memory with exit code 1 and
    what to do. `--debug`, before or after the command, lets all of them through with their traceback.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            sys.exit(1)  # whoever read the output, such as head, has seen enough
        except KeyboardInterrupt as stop:
            if ctx.params.get("debug"):
                raise
            _tell(str(stop) or "interrupted")
            sys.exit(130)
        except (ValueError, OSError, WorkFailed) as error:
            if ctx.params.get("debug"):
                raise
            _tell(str(error))
            sys.exit(2)
        except (MemoryError, RuntimeError) as error:
            if ctx.params.get("debug") or not _out_of_memory(error):
                raise
            _tell(f"out of memory: make fewer pictures at a time, --batch-size 1 ({in_a_line(error)})")
            sys.exit(1)


def _out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # whoever ran out of GPU memory has imported it
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))


def _tell(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("keystep: ", "bold red"), masked(message)))
