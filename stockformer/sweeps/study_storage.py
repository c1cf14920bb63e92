"""The database of a study: it may go away and come back while a search runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from optuna.storages import RDBStorage
from sqlalchemy import event

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

ATTEMPTS = 5
"""Of something that may be said twice, each over a new connection."""
RETRY_SECONDS = 2.0
WARN_SECONDS = 60.0
PERMANENT = ("authentication failed", "does not exist", "pg_hba.conf", "permission denied")
"""Parts of messages of a server that is there and will not let us in."""


def open_storage(url: str) -> RDBStorage:
    """Optuna's storage. Once open, it waits for a server that does not answer.

    A statement in whose middle the connection is lost raises ConnectionError. Raises whatever the
    database's driver does if it cannot be opened.
    """
    storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    shown = storage.engine.url.render_as_string(hide_password=True)

    @event.listens_for(storage.engine, "do_connect")
    def wait_for_server(dialect: Any, record: Any, arguments: Any, settings: Any) -> Any:
        warned = -WARN_SECONDS
        while True:
            try:
                return dialect.connect(*arguments, **settings)
            except dialect.dbapi.OperationalError as error:
                if dialect.name == "sqlite" or any(part in str(error) for part in PERMANENT):
                    raise
                if time.monotonic() - warned >= WARN_SECONDS:
                    warned = time.monotonic()
                    log.warning("%s does not answer, trying again: %s", shown, _line(error))
                time.sleep(RETRY_SECONDS)

    @event.listens_for(storage.engine, "handle_error")
    def name_storage(context: Any) -> None:
        # While SQLAlchemy checks a connection that was idle, it makes a new one by itself.
        if context.is_disconnect and not getattr(context, "is_pre_ping", False):
            raise ConnectionError(
                f"hydra.sweeper.storage={shown}: {_line(context.original_exception)}"
            ) from context.original_exception

    return storage


def patiently(say: Callable[[], Answer]) -> Answer:
    """The answer to what may be said twice, although the connection may be lost meanwhile."""
    for _ in range(ATTEMPTS - 1):
        try:
            return say()
        except ConnectionError:
            time.sleep(RETRY_SECONDS)
    return say()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
