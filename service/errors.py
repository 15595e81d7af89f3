"""Errors of the service, each with its gRPC code.

UserError
└── ServiceError                INTERNAL
    ├── InvalidArgumentError    INVALID_ARGUMENT     the request is wrong, and stays so
    │   └── ImageError          INVALID_ARGUMENT     these bytes are not an image that is accepted
    ├── NotFoundError           NOT_FOUND            no such model or version
    ├── ConflictError           ABORTED              another change came first
    ├── OverloadedError         RESOURCE_EXHAUSTED   full, over quota, or too near the deadline
    ├── UnavailableError        UNAVAILABLE          starting, draining or unreachable
    ├── DeadlineError           DEADLINE_EXCEEDED    the caller's deadline passed
    ├── UnauthenticatedError    UNAUTHENTICATED      no token, or an unknown one
    ├── ForbiddenError          PERMISSION_DENIED    this caller may not do that
    ├── NotOfferedError         UNIMPLEMENTED        this server does not do that
    └── ModelContractError      FAILED_PRECONDITION  a model file breaks its contract
        └── OtherAnswersError   FAILED_PRECONDITION  this machine answers otherwise with it
"""

from typing import ClassVar

from grpc import StatusCode

from terminal import UserError


class ServiceError(UserError):
    """The base of every error that a caller of the service may see."""

    code: ClassVar[StatusCode] = StatusCode.INTERNAL
    retry_after_s: float | None = None
    """When a retry may succeed, in seconds from now; callers get it as RetryInfo."""


class InvalidArgumentError(ServiceError):
    """The request is wrong, and repeating it does not help."""

    code = StatusCode.INVALID_ARGUMENT


class ImageError(InvalidArgumentError):
    """These bytes are not an image that is accepted."""

    def __init__(self, message: str, *, kind: str = "broken") -> None:
        """Say what is wrong; `kind` is its class in the metrics, one of `IMAGE_ERRORS`."""
        super().__init__(message)
        self.kind = kind


IMAGE_ERRORS = ("empty", "too_many_bytes", "too_many_pixels", "too_much_memory", "format", "broken")
"""Kinds of `ImageError`: values of a label of the metrics."""


class NotFoundError(ServiceError):
    """There is no such model, or no such version of it."""

    code = StatusCode.NOT_FOUND


class ConflictError(ServiceError):
    """Another change of the repository came first, so the decision behind this one is outdated."""

    code = StatusCode.ABORTED


class OverloadedError(ServiceError):
    """The call does not fit now, or its deadline cannot be kept."""

    code = StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, *, reason: str = "", retry_after_s: float = 1.0) -> None:
        """Take what is full, its name in `metrics.REJECTIONS`, and when the call may fit."""
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class UnavailableError(ServiceError):
    """The server starts, drains, or cannot be reached."""

    code = StatusCode.UNAVAILABLE

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        """Take the reason, and when it may serve again, if that is known."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(ServiceError):
    """The deadline passed before the work began, or before the answer came."""

    code = StatusCode.DEADLINE_EXCEEDED


class UnauthenticatedError(ServiceError):
    """The call has no token, or an unknown one."""

    code = StatusCode.UNAUTHENTICATED


class ForbiddenError(ServiceError):
    """The caller is known, but may not do this."""

    code = StatusCode.PERMISSION_DENIED


class NotOfferedError(ServiceError):
    """The server does not do that; another one, or another setting, may."""

    code = StatusCode.UNIMPLEMENTED


class ModelContractError(ServiceError):
    """A model file breaks docs/reference/model-contract.md, or the device cannot run it."""

    code = StatusCode.FAILED_PRECONDITION


class OtherAnswersError(ModelContractError):
    """A model file answers otherwise on this machine than where it was released."""
