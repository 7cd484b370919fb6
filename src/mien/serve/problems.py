"""What goes wrong, in OpenAI's shape. This file does not know HTTP frameworks, models, or where a problem arose."""

from __future__ import annotations

from typing import Any

from mien.errors import InputError, MienError, ModelError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "invalid_request_error",
          429: "rate_limit_error", 503: "overloaded_error"}  # fmt: skip


class Problem(Exception):
    """A request that is not answered: an HTTP status with a sentence that may be shown to whoever asked."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        retry_after: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI writes errors."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """What clients go by."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return {**found, "WWW-Authenticate": 'Basic realm="mien"'} if self.status == 401 else found


def refused(param: str, why: str, code: str | None = None) -> Problem:
    """A field that cannot be honoured."""
    return Problem(400, f"{param}: {why}", param=param, code=code)


def of_error(error: MienError) -> Problem:
    """What mien refused while it answered. Its sentences name what was asked for, and none of the server's files."""
    if isinstance(error, InputError | ModelError):
        return Problem(400, str(error))
    return Problem(500, "The server could not do this; its log says why.")
