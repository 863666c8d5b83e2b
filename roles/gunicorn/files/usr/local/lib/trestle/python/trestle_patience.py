"""A page that broke since the database was away is asked of the project again, once it is back.

Only what may be asked again is (GET and HEAD), once, and only where the error was the loss of the connection or of the
primary, not a statement of the project's. Meanwhile the request waits here, for less time than the load balancers do.
"""

import sys
import threading
import time

# Where WSGI's environ says that the answer broke for that, and that a load balancer can ask another host yet.
LOST, FIRST_TRY = "trestle.database_lost", "trestle.first_try"
REPEATABLE = ("GET", "HEAD")
# By their SQLSTATE: the connection, a server that ends or begins, its disk, and one that is the primary no more.
GONE = ("08", "57P", "58", "25006")
LOOK_SECONDS = 0.5


def is_loss(error):
    """Whether this error, or one that it came from, says that the database was away."""
    from django.db import InterfaceError, InternalError, OperationalError

    while error:
        if isinstance(error, (InterfaceError, InternalError, OperationalError)):
            cause = error.__cause__
            state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
            if state is None or state.startswith(GONE):
                return True
        error = error.__cause__ or error.__context__
    return False


def note(request=None, **_):
    """Django's signal of an exception in a request comes before its answer is made."""
    if hasattr(request, "environ") and is_loss(sys.exc_info()[1]):
        request.environ[LOST] = True


def is_back():
    """Whether there is a primary again, over a connection of its own."""
    from django.db import DEFAULT_DB_ALIAS, Error, connections

    connection = connections.create_connection(DEFAULT_DB_ALIAS)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_is_in_recovery()")
            return not cursor.fetchone()[0]
    except Error:
        return False
    finally:
        connection.close()


class Patience:
    """WSGI middleware around a Django project that keeps its data in PostgreSQL."""

    def __init__(self, project, seconds):
        from django.core.signals import got_request_exception

        self.project, self.seconds = project, seconds
        # One thread asks for all of a worker, not more often for being many: when it last did, and when one was there.
        self.asking = threading.Lock()
        self.asked = self.seen = 0.0
        got_request_exception.connect(note)

    def wait(self, deadline):
        """Whether there was a primary, asked for after this page had broken and before that time."""
        began = time.monotonic()
        while (left := deadline - time.monotonic()) > 0:
            if self.asking.acquire(timeout=left):
                try:
                    now = time.monotonic()
                    if self.seen < began and now - self.asked >= LOOK_SECONDS:
                        if is_back():
                            self.seen = now
                        self.asked = time.monotonic()
                finally:
                    self.asking.release()
                if self.seen >= began:
                    return True
                time.sleep(LOOK_SECONDS / 5)
        return False

    def __call__(self, environ, start_response):
        if environ.get("REQUEST_METHOD") not in REPEATABLE:
            return self.project(environ, start_response)
        deadline, untouched, broken = time.monotonic() + self.seconds, dict(environ), []

        def begin(status, headers, *error):
            if status.startswith("500") and environ.get(LOST):
                broken[:] = status, headers
                return lambda data: None
            return start_response(status, headers, *error)

        body = self.project(environ, begin)
        if not broken:
            return body
        content = b"".join(body)
        # Django gives the broken connection up with it.
        if hasattr(body, "close"):
            body.close()
        if environ.get(FIRST_TRY):
            # The next host has all the time.
            start_response("502 Bad Gateway", [("Content-Length", "0")])
            return []
        if self.wait(deadline):
            return self.project(untouched, start_response)
        start_response(*broken)
        return [content]
