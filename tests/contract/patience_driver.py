"""A project behind the WSGI wrapper's Patience: a process, started by the tests, that is asked line by line.

Arguments: the folder of PostgreSQL's socket, and for how many seconds a page waits. A line is a method, a path, "first"
or "last" try, and by how many threads at once; the answer is JSON: each status, each body, and how often the project
was asked.
"""

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpResponse
from django.urls import path
from trestle_patience import FIRST_TRY, Patience

server, seconds = sys.argv[1:]
DATABASE = {"ENGINE": "django.db.backends.postgresql", "HOST": server, "USER": "postgres", "NAME": "postgres"}
settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="x",
    DATABASES={"default": DATABASE | {"CONN_MAX_AGE": 60}},
)
asked = []


def view(statement, wrapped=False):
    def answer(request):
        asked.append(request.method)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return HttpResponse(cursor.fetchone()[0])
        except Exception as error:
            if wrapped:
                raise ValueError("the page cannot be made") from error
            raise

    return answer


urlpatterns = [
    path("page", view("SELECT 'here it is'")),
    path("wrapped", view("SELECT 'here it is'", wrapped=True)),
    path("wrong", view("SELECT nothing")),
    # The primary's end, told to one session.
    path("ended", view("SELECT pg_terminate_backend(pg_backend_pid())")),
]
django.setup()
application = Patience(get_wsgi_application(), float(seconds))
print("ready", flush=True)


def get(method, address, attempt):
    said = []
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": f"/{address}",
        "SERVER_NAME": "site",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.url_scheme": "http",
    } | ({FIRST_TRY: True} if attempt == "first" else {})
    body = application(environ, lambda status, headers: said.append(int(status[:3])))
    text = b"".join(body).decode()
    if hasattr(body, "close"):
        body.close()
    return *said, text


for line in sys.stdin:
    *question, threads = line.split()
    asked.clear()
    # The first in this thread, whose connection stays.
    with ThreadPoolExecutor(int(threads)) as pool:
        others = [pool.submit(get, *question) for _ in range(1, int(threads))]
        answers = [get(*question), *(other.result() for other in others)]
    print(json.dumps([*zip(*answers, strict=True), len(asked)]), flush=True)
