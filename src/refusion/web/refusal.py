"""The refusal of a request, with the status of HTTP that says why."""

from refusion.errors import RefusionError


class Refusal(RefusionError):  # noqa: N818 - not a failure of the service
    """A request is not answered; the message is one line, as on the command line.

    Args:
        status: of HTTP: 400 bad value, 401 no token, 403 from another site, 404 unknown, 409 not in this
            state, 413 too large, 415 no picture, 503 no room at the moment.
        text: the value, what was expected, what to do.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(self, status: int, text: str, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.status, self.retry_after = status, retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
