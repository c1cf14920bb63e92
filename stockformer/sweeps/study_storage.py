"""The database of a study: it may go away and come back while a search runs."""

from __future__ import annotations

import logging
import time
from typing import Any

from optuna.storages import RDBStorage
from sqlalchemy import event

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
WARN_SECONDS = 60.0


def open_storage(url: str) -> RDBStorage:
    """Optuna's storage. Once open, it waits for a server that does not answer.

    Where a statement fails nevertheless, because the server ended in the middle of it or the disk
    is full, it raises OSError. Raises whatever the database's driver does if it cannot be opened.
    """
    storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    shown = storage.engine.url.render_as_string(hide_password=True)

    @event.listens_for(storage.engine, "do_connect")
    def wait_for_server(dialect: Any, record: Any, words: Any, settings: Any) -> Any:
        warned = -WARN_SECONDS
        while True:
            try:
                return dialect.connect(*words, **settings)
            except dialect.dbapi.OperationalError as error:
                if dialect.name == "sqlite":
                    raise
                if time.monotonic() - warned >= WARN_SECONDS:
                    warned = time.monotonic()
                    log.warning("%s does not answer, trying again: %s", shown, _line(error))
                time.sleep(RETRY_SECONDS)

    @event.listens_for(storage.engine, "handle_error")
    def name_storage(context: Any) -> None:
        failed = isinstance(
            context.original_exception, storage.engine.dialect.dbapi.OperationalError
        )
        # While it checks a connection that was not used for some time, SQLAlchemy makes a new one.
        if failed and not getattr(context, "is_pre_ping", False):
            raise OSError(
                f"hydra.sweeper.storage={shown}: {_line(context.original_exception)}"
            ) from context.original_exception

    return storage


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
