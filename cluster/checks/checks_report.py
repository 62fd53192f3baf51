"""Checks as a report."""

from collections.abc import Sequence

from keystep.cluster.checks.node_checks import Check
from keystep.search.reporting.report_formats import Report, Section, Table


def report(name: str, checks: Sequence[Check]) -> Report:
    """A line a check; `name` is that of the search."""
    bad = sum(not check.ok for check in checks)
    lead = f"{bad} of {len(checks)} checks failed: put them right first." if bad else "All is as it must be."
    rows = [(check.name, "ok" if check.ok else "FAILED", check.found, check.advice) for check in checks]
    columns = ("check", "", "found", *(("what to do",) if bad else ()))
    table = Table(columns, [row[: len(columns)] for row in rows], secondary=("what to do",))
    return Report(f"{name}: preflight", lead, [Section("Checks", [table])])
