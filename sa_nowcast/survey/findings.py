"""What a check found: passed, worth a look, or an error that would stop the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sa_nowcast.errors import SaNowcastError

Status = Literal["PASS", "WARN", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes
    ----------
    check : str
        What was looked at: a stable name, such as ``time`` or ``digests``.
    detail : str
        What was found; of a failure the line that the work itself would end with.
    error : SaNowcastError or None
        Of a failure.
    """

    check: str
    status: Status
    detail: str
    error: SaNowcastError | None = None

    @classmethod
    def failure(cls, check: str, error: SaNowcastError) -> Finding:
        """Return what a check says that ended with `error`."""
        return cls(check, "FAIL", str(error), error)

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON can hold it."""
        code = None if self.error is None else self.error.exit_code
        error = None if self.error is None else self.error.as_dict()
        return {
            "check": self.check, "status": self.status, "detail": self.detail, "exit_code": code, "error": error,
        }  # fmt: skip


def exit_code(findings: Sequence[Finding]) -> int:
    """Return the exit code of the first failure, or 0."""
    return next((f.error.exit_code for f in findings if f.error is not None), 0)


def overall(findings: Sequence[Finding]) -> Status:
    """Return the worst status of all."""
    found = {f.status for f in findings}
    return "FAIL" if "FAIL" in found else "WARN" if "WARN" in found else "PASS"
