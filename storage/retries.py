"""Trying again what a network may have failed."""

import functools
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from storage.errors import StorageError, TakenError

P = ParamSpec("P")
T = TypeVar("T")


def retried(method: Callable[P, T]) -> Callable[P, T]:
    """Try again what a network may have failed; say where and why in the end."""

    @functools.wraps(method)
    def tried(*given: P.args, **named: P.kwargs) -> T:
        self: Any = given[0]
        for pause_s in self.pauses_s:
            try:
                return method(*given, **named)
            except TakenError:
                raise
            except (FileNotFoundError, PermissionError):
                break
            except Exception:  # botocore, aiohttp and s3fs have no common base
                time.sleep(pause_s)
        try:
            return method(*given, **named)
        except TakenError:
            raise
        except Exception as error:
            what = f"{self.url}/{given[1]}" if len(given) > 1 else self.url
            raise StorageError(f"{what}: {error or type(error).__name__}") from error

    return tried
