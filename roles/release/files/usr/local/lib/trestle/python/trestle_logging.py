"""Logs for the journal: one prefix on every line, the request's id in it, and no record twice.

The load balancers give each request an id (X-Request-ID), which the WSGI wrapper keeps in ``request_id``. A project
with a LOGGING of its own has it in its records by the filter "trestle_logging.RequestIdFilter".
"""

import contextvars
import logging
import os
import pkgutil
from copy import deepcopy

request_id = contextvars.ContextVar("request_id", default="-")

HANDLER, FORMATTER, FILTER = "trestle_journal", "trestle_journal", "trestle_request_id"
ONLY_IN_DEBUG = "django.utils.log.RequireDebugTrue"
# A program that supervisor started writes to the journal, which reads a line's priority from its beginning.
SUPERVISED = "TRESTLE_DIGEST" in os.environ
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


class RequestIdFilter(logging.Filter):
    """Gives each record a ``request_id``, "-" outside of a request."""

    def filter(self, record):
        if not hasattr(record, "request_id"):
            record.request_id = request_id.get()
        return True


class JournalFormatter(logging.Formatter):
    """Every line of a traceback begins as the first does: the journal makes an entry of each, and stamps it."""

    def format(self, record):
        priority = next((number for level, number in PRIORITIES if record.levelno >= level), 7)
        prefix = f"<{priority}>" if SUPERVISED else ""
        prefix += f"{record.levelname} {record.name} [{record.request_id}] "
        return "\n".join(prefix + line for line in super().format(record).splitlines() or [""])


class JournalHandler(logging.StreamHandler):
    """To standard error, where a record is written once, however many handlers of the project's it passes."""

    def emit(self, record):
        if not getattr(record, "in_journal", False):
            record.in_journal = True
            super().emit(record)


def to_journal(own):
    """The project's LOGGING, with what it writes to files and streams sent to the journal. All else is kept."""
    config = {"disable_existing_loggers": False} | deepcopy(own) | {"version": 1}
    handlers = config.setdefault("handlers", {})
    filters = config.setdefault("filters", {})
    for name, handler in handlers.items():
        if writes_a_stream(handler):
            handlers[name] = journal_handler(handler)
    in_debug = {name for name, spec in filters.items() if spec.get("()") == ONLY_IN_DEBUG}
    live = {
        name
        for name, handler in handlers.items()
        if handler.get("formatter") == FORMATTER and not in_debug & set(handler["filters"])
    }
    root = config.setdefault("root", config.get("loggers", {}).pop("", {"level": "INFO"}))
    if not live & set(root.get("handlers", [])):
        root["handlers"] = [*root.get("handlers", []), HANDLER]
    handlers[HANDLER] = journal_handler({})
    filters[FILTER] = {"()": "trestle_logging.RequestIdFilter"}
    config.setdefault("formatters", {})[FORMATTER] = {"()": "trestle_logging.JournalFormatter"}
    return config


def writes_a_stream(handler):
    """Whether it is a StreamHandler, as those of files are too."""
    kind = handler.get("class", handler.get("()"))
    if isinstance(kind, str):
        try:
            kind = pkgutil.resolve_name(kind)
        except (ImportError, AttributeError, ValueError):
            return False  # it is logging's to say what is wrong with it
    return isinstance(kind, type) and issubclass(kind, logging.StreamHandler)


def journal_handler(own):
    kept = {key: own[key] for key in ("level",) if key in own}
    filters = [*own.get("filters", []), FILTER]
    return {"class": "trestle_logging.JournalHandler", "formatter": FORMATTER, "filters": filters} | kept
