"""Where benchmark reports are kept: <theme>_<hardware>_<date>.md."""

import datetime
import os
import platform
from pathlib import Path

REPORTS = Path(__file__).parent / "reports"


def this_cpu(threads: int | None = None) -> str:
    """The processor as in a file name, by its threads or all of its cores."""
    return f"cpu-{platform.machine()}-" + (f"{threads}-threads" if threads else f"{os.cpu_count()}-cores")


def report_path(theme: str, hardware: str) -> Path:
    """Path of today's report; its folder is there."""
    REPORTS.mkdir(exist_ok=True)
    return REPORTS / f"{theme}_{hardware}_{datetime.date.today()}.md"
