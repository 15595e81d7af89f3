"""Errors of the service, each with its gRPC code.

UserError
└── ServiceError                INTERNAL
    ├── InvalidArgumentError    INVALID_ARGUMENT     the request is wrong, and stays so
    │   └── ImageError          INVALID_ARGUMENT     these bytes are no picture that is accepted
    ├── NotFoundError           NOT_FOUND            no such model or version
    ├── OverloadedError         RESOURCE_EXHAUSTED   the request queue is full
    ├── UnavailableError        UNAVAILABLE          starting, draining or unreachable
    ├── DeadlineError           DEADLINE_EXCEEDED    the caller's time was over
    └── ModelContractError      FAILED_PRECONDITION  a model file breaks docs/model-contract.md
"""

from typing import ClassVar

from grpc import StatusCode

from terminal import UserError


class ServiceError(UserError):
    """The base of every error that a caller of the service may see."""

    code: ClassVar[StatusCode] = StatusCode.INTERNAL


class InvalidArgumentError(ServiceError):
    """The request is wrong, and stays wrong when it is tried again."""

    code = StatusCode.INVALID_ARGUMENT


class ImageError(InvalidArgumentError):
    """These bytes are no picture that is accepted."""


class NotFoundError(ServiceError):
    """There is no such model, or no such version of it."""

    code = StatusCode.NOT_FOUND


class OverloadedError(ServiceError):
    """The request queue is full."""

    code = StatusCode.RESOURCE_EXHAUSTED


class UnavailableError(ServiceError):
    """The service does not serve: it starts, drains, or cannot be reached."""

    code = StatusCode.UNAVAILABLE


class DeadlineError(ServiceError):
    """The caller's time was over before the work began, or before the answer came."""

    code = StatusCode.DEADLINE_EXCEEDED


class ModelContractError(ServiceError):
    """A model file does not keep docs/model-contract.md, or the device cannot run it."""

    code = StatusCode.FAILED_PRECONDITION
