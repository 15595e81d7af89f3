"""Errors of the service, each with its gRPC code.

UserError
└── ServiceError                INTERNAL
    ├── InvalidArgumentError    INVALID_ARGUMENT     the request is wrong, and stays so
    │   └── ImageError          INVALID_ARGUMENT     these bytes are no picture that is accepted
    ├── NotFoundError           NOT_FOUND            no such model or version
    ├── ConflictError           ABORTED              another change came first
    ├── OverloadedError         RESOURCE_EXHAUSTED   full, over quota, or too late for the deadline
    ├── UnavailableError        UNAVAILABLE          starting, draining or unreachable
    ├── DeadlineError           DEADLINE_EXCEEDED    the caller's time was over
    ├── UnauthenticatedError    UNAUTHENTICATED      no token, or one that is not known
    ├── ForbiddenError          PERMISSION_DENIED    this caller may not do that
    └── ModelContractError      FAILED_PRECONDITION  a model file breaks its contract
"""

from typing import ClassVar

from grpc import StatusCode

from terminal import UserError


class ServiceError(UserError):
    """The base of every error that a caller of the service may see."""

    code: ClassVar[StatusCode] = StatusCode.INTERNAL
    retry_after_s: float | None = None
    """When it is worth trying again, in seconds from now; callers get it as RetryInfo."""


class InvalidArgumentError(ServiceError):
    """The request is wrong, and stays wrong when it is tried again."""

    code = StatusCode.INVALID_ARGUMENT


class ImageError(InvalidArgumentError):
    """These bytes are no picture that is accepted."""

    def __init__(self, message: str, *, kind: str = "broken") -> None:
        """Say what is wrong; `kind` is its class in the metrics, one of `IMAGE_ERRORS`."""
        super().__init__(message)
        self.kind = kind


IMAGE_ERRORS = ("empty", "too_many_bytes", "too_many_pixels", "format", "broken")
"""What can be wrong with an image."""


class NotFoundError(ServiceError):
    """There is no such model, or no such version of it."""

    code = StatusCode.NOT_FOUND


class ConflictError(ServiceError):
    """Another change of the repository came first; what was decided no longer holds."""

    code = StatusCode.ABORTED


class OverloadedError(ServiceError):
    """There is no place for the call now, or its deadline cannot be kept."""

    code = StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        """Say what is full, and when there may be a place again."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(ServiceError):
    """The service does not serve: it starts, drains, or cannot be reached."""

    code = StatusCode.UNAVAILABLE

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        """Say why, and when it may serve again if that is known."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(ServiceError):
    """The caller's time was over before the work began, or before the answer came."""

    code = StatusCode.DEADLINE_EXCEEDED


class UnauthenticatedError(ServiceError):
    """The call has no token, or one that is not known."""

    code = StatusCode.UNAUTHENTICATED


class ForbiddenError(ServiceError):
    """The caller is known, and may not do that."""

    code = StatusCode.PERMISSION_DENIED


class ModelContractError(ServiceError):
    """A model file does not keep docs/reference/model-contract.md, or the device cannot run it."""

    code = StatusCode.FAILED_PRECONDITION
