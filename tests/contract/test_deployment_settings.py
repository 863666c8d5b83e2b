"""The deployment settings over real projects, made by django-admin startproject, each in a process of its own."""

import json
import os
import re
import socket
import subprocess
import sys
import textwrap

import pytest
from environments import ROOT, rendered

LIBRARY = [ROOT / f"roles/{role}/files/usr/local/lib/trestle/python" for role in ("release", "gunicorn")]


@pytest.fixture(scope="session")
def written_environment(tmp_path_factory):
    """What a site of the example inventory finds in its environment on a web host, as a shell reads the file."""
    text = next(file.text for file in rendered("production", "release") if file.dest == "/srv/gazette/etc/environment")
    file = tmp_path_factory.mktemp("environment") / "environment"
    file.write_text(text)
    shell = ["env", "-i", "/bin/sh", "-c", f"set -a; . {file}; exec /usr/bin/env -0"]
    run = subprocess.run(shell, capture_output=True, text=True, check=True)
    return dict(entry.split("=", 1) for entry in run.stdout.split("\0") if entry)


class Project:
    """A project as django-admin makes it, with whatever a test adds to its settings."""

    def __init__(self, folder, environment):
        self.folder = folder
        subprocess.run([sys.executable, "-m", "django", "startproject", "shop", folder], check=True)
        self.env = environment | {
            "DJANGO_SETTINGS_MODULE": "trestle_settings",
            "TRESTLE_SETTINGS_MODULE": "shop.settings",
            "TRESTLE_WSGI": "shop.wsgi",
            "STATIC_ROOT": str(folder / "collected"),
            "PYTHONPATH": os.pathsep.join(map(str, [folder, *LIBRARY])),
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",  # the folders are copied to hosts as they are
        }

    def add(self, text, file="shop/settings.py"):
        with open(self.folder / file, "a") as settings:
            settings.write("\n" + textwrap.dedent(text))

    def write(self, file, text):
        (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / file).write_text(textwrap.dedent(text))

    def run(self, *arguments, **env):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def python(self, text, **env):
        done = self.run("-c", textwrap.dedent(text), **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def settings(self, *names, **env):
        """What django.conf.settings says, through JSON."""
        text = f"""
        import json
        from django.conf import settings
        print(json.dumps([getattr(settings, name) for name in {names!r}], default=str))
        """
        values = json.loads(self.python(text, **env).stdout)
        return values[0] if len(names) == 1 else values


@pytest.fixture
def project(tmp_path, written_environment):
    return Project(tmp_path, written_environment)


# What Django says of it.


def findings_of_check(project, **env):
    done = project.run("-m", "django", "check", "--deploy", **env)
    return set(re.findall(r"\((\w+\.[EWI]\d+)\)", done.stdout + done.stderr)), done


def test_a_new_project_passes_django_s_own_check_of_a_deployment(project):
    found, done = findings_of_check(project)
    assert (found, done.returncode) == (set(), 0), done.stdout + done.stderr
    assert "no issues" in done.stdout


def test_preloading_is_silenced_only_until_it_is_chosen(project):
    chosen = {"SECURE_HSTS_INCLUDE_SUBDOMAINS": "true", "SECURE_HSTS_PRELOAD": "true"}
    assert project.settings("SILENCED_SYSTEM_CHECKS") == ["security.W005", "security.W021"]
    project.add('SILENCED_SYSTEM_CHECKS = ["models.W042"]')
    assert project.settings("SILENCED_SYSTEM_CHECKS", "SECURE_HSTS_PRELOAD", **chosen) == [["models.W042"], True]
    assert findings_of_check(project, SECURE_HSTS_SECONDS="0")[0] == {"security.W004"}, "no HSTS is a finding"


def test_what_the_entry_silences_is_silent_for_every_command(project):
    project.add('SILENCED_SYSTEM_CHECKS = ["models.W042"]')
    silenced = project.settings("SILENCED_SYSTEM_CHECKS", TRESTLE_SILENCED_CHECKS="shop.E001,shop.W002")
    assert {"models.W042", "shop.E001", "shop.W002", "security.W005"} <= set(silenced)


def test_what_is_insecure_in_a_project_is_laid_over(project):
    project.add(
        """
        DEBUG = True
        ALLOWED_HOSTS = ["*"]
        SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = False
        LANGUAGE_CODE = "nl"
        """
    )
    debug, key, hosts, language = project.settings("DEBUG", "SECRET_KEY", "ALLOWED_HOSTS", "LANGUAGE_CODE")
    assert (debug, key, hosts) == (False, project.env["SECRET_KEY"], ["gazette.production.example.com"])
    assert language == "nl", "what no rule names stays"
    assert project.settings("CSRF_TRUSTED_ORIGINS") == ["https://gazette.production.example.com"]
    assert project.settings("SECURE_SSL_REDIRECT", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE") == [True] * 3
    assert project.settings("SECRET_KEY_FALLBACKS", SECRET_KEY_FALLBACKS="old,older") == ["old", "older"]


# Databases.


def test_a_sqlite_project_goes_to_pgpool_without_what_only_sqlite_knows(project):
    project.add('DATABASES["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE", "timeout": 20}')
    project.add('DATABASES["default"]["ATOMIC_REQUESTS"] = True')
    default = project.settings("DATABASES")["default"]
    assert default["ENGINE"] == "django.db.backends.postgresql"
    assert (default["HOST"], default["PORT"], default["NAME"]) == ("127.0.0.1", "5432", "gazette")
    assert default["USER"] == "gazette" and default["PASSWORD"]
    assert default["OPTIONS"] == {"connect_timeout": 5}
    assert default["ATOMIC_REQUESTS"] and default["CONN_HEALTH_CHECKS"] and default["DISABLE_SERVER_SIDE_CURSORS"]
    assert default["CONN_MAX_AGE"] == 60


def test_a_postgresql_project_keeps_its_backend_and_its_options_but_not_its_server(project):
    project.add(
        """
        DATABASES = {
            "default": {
                "ENGINE": "django.contrib.gis.db.backends.postgis",
                "HOST": "db.example.com",
                "PASSWORD": "theirs",
                "OPTIONS": {"sslmode": "require", "isolation_level": 3, "options": "-c search_path=shop"},
            },
            "warehouse": {"ENGINE": "django.db.backends.mysql", "HOST": "warehouse"},
        }
        """
    )
    databases = project.settings("DATABASES", TRESTLE_SERVES_REQUESTS="true", STATEMENT_TIMEOUT="1.5")
    default = databases["default"]
    assert default["ENGINE"] == "django.contrib.gis.db.backends.postgis"
    assert (default["HOST"], default["PASSWORD"]) != ("db.example.com", "theirs")
    assert default["OPTIONS"]["isolation_level"] == 3 and "sslmode" not in default["OPTIONS"]
    assert default["OPTIONS"]["options"] == "-c statement_timeout=1500 -c search_path=shop"
    assert databases["warehouse"]["HOST"] == "warehouse", "other aliases are kept"


def test_only_requests_have_a_statement_timeout(project):
    """A migration that builds an index for an hour must be let."""
    assert "options" not in project.settings("DATABASES", STATEMENT_TIMEOUT="20")["default"]["OPTIONS"]


def test_the_replica_alias_is_the_one_pgpool_sends_to_the_standbys(project):
    project.add('DATABASES["default"]["ATOMIC_REQUESTS"] = True')
    text = """
    from django.db import connections
    print(connections["replica"].get_connection_params())
    """
    parameters = project.python(text).stdout
    name = re.search(r"'application_name': '([^']*)'", parameters)[1]
    configurations = [file.text for file in rendered("production", "pgpool") if file.dest.endswith("/pgpool.conf")]
    assert configurations
    for text in configurations:
        pattern = re.search(r"app_name_redirect_preference_list = '(.*):standby'", text)[1]
        assert re.fullmatch(pattern, name), f"pgpool does not know {name} by {pattern}"
        assert not re.fullmatch(pattern, "gazette-replica"), "a site of that name would read from standbys"
        assert "database_redirect_preference_list = '.*:primary'" in text
    assert "default_transaction_read_only=on" in parameters
    replica = project.settings("DATABASES")["replica"]
    assert replica["ATOMIC_REQUESTS"] is False, "each request would open a transaction on it"


# Caches and sessions.

CACHES = """
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "TIMEOUT": 7, "KEY_PREFIX": "own",
                "OPTIONS": {"MAX_ENTRIES": 10}},
    "pages": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": "/nowhere", "VERSION": 3},
    "queue": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://queue"},
}
"""


def test_caches_of_a_development_machine_go_to_the_ring(project):
    project.add(CACHES)
    caches = project.settings("CACHES")
    ring = re.fullmatch(r"pymemcache://(.*)\?key_prefix=gazette", project.env["CACHE_URL"])[1].split(",")
    assert len(ring) > 1
    for alias in ("default", "pages"):
        assert caches[alias]["BACKEND"] == "trestle_cache.RingCache"
        assert caches[alias]["LOCATION"] == ring
        assert "OPTIONS" not in caches[alias]
    assert (caches["default"]["TIMEOUT"], caches["default"]["KEY_PREFIX"]) == (7, "gazette:own")
    assert (caches["pages"]["VERSION"], caches["pages"]["KEY_PREFIX"]) == (3, "gazette:pages")
    assert caches["queue"]["LOCATION"] == "redis://queue"
    project.add('CACHES["default"]["KEY_PREFIX"] = "gazette"')
    assert project.settings("CACHES")["default"]["KEY_PREFIX"] == "gazette", "as where CACHE_URL was read"


@pytest.mark.parametrize(
    "location", ["redis://127.0.0.1:6379/1", "redis://:secret@localhost", ["redis://[::1]:1"], "unix:///run/redis.sock"]
)
def test_a_redis_of_the_same_machine_is_a_development_machine_s(project, location):
    project.add(
        f"""
        CACHES = {{
            "default": {{"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": {location!r}}},
            "table": {{"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "pages"}},
        }}
        """
    )
    caches = project.settings("CACHES")
    assert caches["default"]["BACKEND"] == "trestle_cache.RingCache"
    assert caches["table"]["LOCATION"] == "pages"


@pytest.fixture
def silent_host():
    """A host that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_dead_cache_host_raises_nothing_and_costs_a_quarter_of_a_second(project, silent_host):
    """And any key is as good as it was in memory."""
    text = """
    import time
    import django
    django.setup()
    from django.core.cache import cache
    from django.core.signals import request_finished
    cache._cache  # importing the client is no request's cost
    for key in ("a", "spaces and \\u00fc", "x" * 400):
        started = time.monotonic()
        assert cache.get(key, "nothing") == "nothing"
        cache.set(key, 1), cache.get_many([key]), cache.delete(key), cache.add(key, 1), cache.touch(key)
        print(time.monotonic() - started)
        request_finished.send(None)
    """
    for host in (silent_host, "192.0.2.1:11211"):
        done = project.python(text, CACHE_URL=f"pymemcache://{host}?key_prefix=gazette")
        assert all(float(seconds) < 0.25 for seconds in done.stdout.split()), f"{host}: {done.stdout}"


def test_writing_many_keys_waits_once_for_a_dead_cache_host(project, silent_host):
    text = """
    import time
    import django
    django.setup()
    from django.core.cache import cache
    cache._cache
    started = time.monotonic()
    for number in range(5):
        assert cache.set_many({f"a{number}": 1, f"b{number}": 2})
    print(time.monotonic() - started)
    """
    done = project.python(text, CACHE_URL=f"pymemcache://{silent_host}?key_prefix=gazette")
    assert float(done.stdout) < 0.25, done.stdout


def test_a_lost_cache_host_moves_its_own_keys_alone_and_takes_them_back(project, silent_host):
    """Where each of a thousand keys goes: of three hosts, without the last, and with it again after the dead time."""
    text = """
    import time
    import django
    django.setup()
    from django.core.cache import cache
    ring, keys = cache._cache, [f"key{number}" for number in range(1000)]
    ring.dead_timeout = 1
    where = lambda: [ring._get_client(cache.make_key(key)).server[1] for key in keys]
    port, before = list(ring.clients.values())[-1].server[1], where()
    assert cache.get(keys[before.index(port)]) is None
    without = where()
    time.sleep(1.1)
    assert where() == before
    moved = [old for old, new in zip(before, without) if old != new]
    assert set(moved) == {port} and port not in without and 250 < len(moved) < 420, len(moved)
    assert min(map(without.count, set(without))) > 400, "both of the others have their part of it"
    """
    ring = f"127.0.0.1:1,127.0.0.1:2,{silent_host}"
    project.python(text, CACHE_URL=f"pymemcache://{ring}?key_prefix=gazette")


def test_a_project_that_reads_cache_url_alone_is_told_what_a_lost_host_does(project):
    text = """
    from django.conf import settings
    from trestle_findings import cache_findings
    print(len(cache_findings(settings.CACHES)))
    """
    project.add("CACHES = {'default': {'BACKEND': 'django.core.cache.backends.memcached.PyMemcacheCache'}}")
    assert project.python(text, DJANGO_SETTINGS_MODULE="shop.settings").stdout == "1\n"
    project.add("import os; CACHES['default']['BACKEND'] = os.environ['CACHE_BACKEND']")
    assert project.python(text, DJANGO_SETTINGS_MODULE="shop.settings").stdout == "0\n"


@pytest.mark.parametrize(
    ("own", "wanted"), [("cache", "cached_db"), ("file", "cached_db"), ("signed_cookies",) * 2, ("db",) * 2]
)
def test_sessions_survive_a_lost_cache_host(project, own, wanted):
    project.add(f'SESSION_ENGINE = "django.contrib.sessions.backends.{own}"')
    assert project.settings("SESSION_ENGINE") == f"django.contrib.sessions.backends.{wanted}"


def test_sessions_get_the_table_they_need(project):
    project.add('SESSION_ENGINE = "django.contrib.sessions.backends.cache"')
    project.add('INSTALLED_APPS = ["django.contrib.contenttypes"]')
    assert "django.contrib.sessions" in project.settings("INSTALLED_APPS")


def test_a_project_made_for_sqlite_has_what_postgresql_needs(project):
    assert project.settings("INSTALLED_APPS").count("django.contrib.postgres") == 1
    project.add('INSTALLED_APPS.insert(0, "django.contrib.postgres.apps.PostgresConfig")')
    assert "django.contrib.postgres" not in project.settings("INSTALLED_APPS")


# Files.


def test_folders_are_paths_as_django_writes_them(project):
    project.python("from django.conf import settings; settings.STATIC_ROOT / 'a', settings.MEDIA_ROOT / 'a'")


def test_uploads_and_static_files_go_to_the_media_hosts(project):
    project.add('MEDIA_URL, MEDIA_ROOT, STATIC_URL = "/files/", "/nowhere", "/assets/"')
    storages, media_url, static_url = project.settings("STORAGES", "MEDIA_URL", "STATIC_URL")
    assert storages["default"] == {"BACKEND": "trestle_storage.MediaStorage"}
    assert storages["staticfiles"] == {"BACKEND": "trestle_storage.StaticStorage"}
    assert (media_url, static_url) == ("/media/", "/static/"), "what the load balancers send to the media hosts"
    assert project.settings("STATIC_ROOT", "MEDIA_ROOT") == [project.env["STATIC_ROOT"], project.env["MEDIA_ROOT"]]


def test_uploads_go_where_the_environment_says(project):
    storages = project.settings("STORAGES", MEDIA_STORAGE="trestle_s3.S3MediaStorage")
    assert storages["default"] == {"BACKEND": "trestle_s3.S3MediaStorage"}


def test_a_storage_that_is_a_service_of_its_own_stays(project):
    project.add(
        """
        STORAGES = {
            "default": {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": {"bucket_name": "shop"}},
            "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
            "exports": {"BACKEND": "storages.backends.s3.S3Storage"},
        }
        MEDIA_URL, STATIC_URL = "https://files.example.com/", "https://static.example.com/"
        """
    )
    storages, media_url, static_url = project.settings("STORAGES", "MEDIA_URL", "STATIC_URL")
    assert storages["default"]["OPTIONS"] == {"bucket_name": "shop"}
    assert storages["staticfiles"]["BACKEND"].startswith("whitenoise") and "exports" in storages
    assert (media_url, static_url) == ("https://files.example.com/", "https://static.example.com/")


def test_static_files_that_were_good_enough_in_development_are_collected(project):
    project.add('STATICFILES_DIRS = [BASE_DIR / "assets"]')
    project.write("assets/logo.svg", "<svg/>")
    project.write("assets/site.css", "a { background: url(logo.svg) } b { background: url(../../gone.png) }")
    project.write("assets/other.css", 'c { background: url("gone.png?#iefix") }')
    (project.folder / "assets/latin.css").write_bytes(b"/* \xe9 */")
    done = project.run("-m", "django", "collectstatic", "--noinput")
    assert done.returncode == 0, done.stderr
    assert "latin.css is not UTF-8" in done.stderr
    text = """
    from django.contrib.staticfiles.storage import staticfiles_storage as storage
    for name in ("site.css", "other.css", "latin.css", "not-there.css"):
        print(storage.url(name))
    """
    site, other, latin, absent = project.python(text).stdout.split()
    assert re.fullmatch(r"/static/site\.[0-9a-f]{12}\.css", site)
    collected = project.folder / "collected"
    css = (collected / site.removeprefix("/static/")).read_text()
    assert re.search(r"url\(\"logo\.[0-9a-f]{12}\.svg\"\)", css) and "../../gone.png" in css
    assert "gone.png?#iefix" in (collected / other.removeprefix("/static/")).read_text()
    assert (latin, absent) == ("/static/latin.css", "/static/not-there.css")
    assert (collected / "latin.css").exists(), "a URL without a hash leads to the file itself"


# Mail.


def test_mail_goes_to_the_relay_of_the_host(project):
    project.add('EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"')
    project.add('EMAIL_HOST, EMAIL_USE_TLS, EMAIL_HOST_USER = "smtp.example.net", True, "shop"')
    assert project.settings("EMAIL_BACKEND", "EMAIL_HOST", "EMAIL_PORT", "EMAIL_USE_TLS", "EMAIL_HOST_USER") == [
        "django.core.mail.backends.smtp.EmailBackend",
        "127.0.0.1",
        25,
        False,
        "",
    ]


def test_a_mail_service_stays_but_where_mail_is_swallowed(project):
    project.add('EMAIL_BACKEND = "anymail.backends.mailgun.EmailBackend"')
    assert project.settings("EMAIL_BACKEND", MAIL_SWALLOW="false").startswith("anymail.")
    assert project.settings("EMAIL_BACKEND", MAIL_SWALLOW="true") == "django.core.mail.backends.smtp.EmailBackend"


def test_mail_has_a_sender_that_exists(project):
    assert project.settings("DEFAULT_FROM_EMAIL", "SERVER_EMAIL") == ["noreply@gazette.production.example.com"] * 2
    project.add('DEFAULT_FROM_EMAIL = "desk@example.com"')
    assert project.settings("DEFAULT_FROM_EMAIL") == "desk@example.com"
    assert project.settings("DEFAULT_FROM_EMAIL", "SERVER_EMAIL", MAIL_FROM="a@example.com") == ["a@example.com"] * 2


def test_admins_are_the_ones_of_the_site_s_entry(project):
    assert project.settings("ADMINS", "MANAGERS") == [[["", "admin@example.com"]]] * 2
    assert project.settings("ADMINS", ADMINS="Ada <ada@example.com>, b@example.com") == [
        ["Ada", "ada@example.com"],
        ["", "b@example.com"],
    ]


# Logs.

LOGGING = """
LOGGING = {
    "version": 1,
    "formatters": {"theirs": {"format": "THEIRS %(message)s"}},
    "filters": {"debug": {"()": "django.utils.log.RequireDebugTrue"}},
    "handlers": {
        "file": {"class": "logging.handlers.RotatingFileHandler", "filename": "/nowhere/shop.log",
                 "formatter": "theirs", "level": "WARNING"},
        "console": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"},
        "sql": {"class": "logging.StreamHandler", "filters": ["debug"]},
        "mail_admins": {"class": "django.utils.log.AdminEmailHandler", "level": "ERROR"},
    },
    "root": {"handlers": ["console"], "level": "DEBUG"},
    "loggers": {
        "shop": {"handlers": ["file", "console", "mail_admins"], "level": "INFO"},
        "shop.quiet": {"handlers": ["file"], "propagate": False},
        "shop.sql": {"handlers": ["sql"], "propagate": False},
    },
}
"""
LOG = """
import logging, django
django.setup()
from trestle_logging import request_id
request_id.set("cafe")
for name in ("shop", "shop.quiet", "shop.sql", "elsewhere"):
    logging.getLogger(name).info("one from %s", name)
    logging.getLogger(name).warning("two\\nfrom %s", name)
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("elsewhere").exception("three")
handlers = [type(handler).__name__ for handler in logging.getLogger("shop").handlers]
assert handlers.count("AdminEmailHandler") == ("AdminEmailHandler" in handlers), handlers
print(handlers)
"""


def test_every_line_of_a_log_has_the_request_s_id_and_none_is_there_twice(project):
    project.add(LOGGING)
    done = project.python(LOG)
    lines = done.stderr.splitlines()
    assert [line for line in lines if "Traceback" not in line and "three" not in line][:6] == [
        "INFO shop [cafe] one from shop",
        "WARNING shop [cafe] two",
        "WARNING shop [cafe] from shop",
        "WARNING shop.quiet [cafe] two",
        "WARNING shop.quiet [cafe] from shop.quiet",
        "INFO elsewhere [cafe] one from elsewhere",
    ]
    assert "ERROR elsewhere [cafe] ZeroDivisionError: division by zero" in lines
    assert all(" [cafe] " in line for line in lines) and "shop.sql" not in done.stderr
    assert "AdminEmailHandler" in done.stdout, "other handlers are kept"


def test_a_project_that_says_nothing_of_logs_has_them_all_the_same(project):
    lines = project.python(LOG).stderr.splitlines()
    assert lines.count("INFO shop [cafe] one from shop") == 1
    assert sum("ERROR elsewhere" in line for line in lines) > 3


def test_a_project_that_sees_to_its_logs_itself_is_let(project):
    project.add("LOGGING_CONFIG = None")
    assert project.settings("LOGGING") == {}


# The WSGI wrapper, with the project behind it.

SERVE = """
import io
import trestle_wsgi
application = trestle_wsgi.make_application()
def get(path, request_id):
    said = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_NAME": "x", "SERVER_PORT": "80",
               "HTTP_HOST": "gazette.production.example.com", "HTTP_X_FORWARDED_PROTO": "https",
               "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(),
               "HTTP_X_REQUEST_ID": request_id, "wsgi.errors": None}
    body = b"".join(application(environ, lambda status, headers: said.append(status)))
    return said[0]
"""


def test_a_request_s_id_is_in_the_traceback_it_leaves(project):
    project.add("urlpatterns += [path('boom', lambda request: 1 / 0)]", "shop/urls.py")
    project.add("DATABASES = {}; MIDDLEWARE = []; LOGGING = {'version': 1, 'handlers': {}}")
    done = project.python(SERVE + "print(get('/boom', 'cafe1'), get('/none', 'cafe2'))", EMAIL_URL="smtp://127.0.0.1:9")
    assert done.stdout.strip() == "500 Internal Server Error 404 Not Found"
    assert "ERROR django.request [cafe1] ZeroDivisionError: division by zero" in done.stderr
    assert "WARNING django.request [cafe2] Not Found: /none" in done.stderr


def test_a_wsgi_module_that_chooses_settings_itself_comes_too_late(project):
    project.write("shop/dev.py", "from shop.settings import *\nROOT_URLCONF = 'shop.dev_urls'")
    project.write(
        "shop/wsgi.py",
        """
        import os
        from django.core.wsgi import get_wsgi_application
        os.environ["DJANGO_SETTINGS_MODULE"] = "shop.dev"
        os.environ["SECRET_KEY"] = "weak"
        application = get_wsgi_application()
        """,
    )
    text = SERVE + "from django.conf import settings\nprint(settings.SETTINGS_MODULE, settings.ROOT_URLCONF)"
    assert project.python(text).stdout.split() == ["trestle_settings", "shop.urls"]
    sentences = findings(project)
    assert len(sentences) == 2 and all(sentence.startswith("shop.wsgi, line ") for sentence in sentences)
    assert "DJANGO_SETTINGS_MODULE is set to 'shop.dev', which is ignored" in sentences[0]
    assert "SECRET_KEY is set to 'weak', whatever the site's environment says" in sentences[1]


# What cannot be undone.


def findings(project):
    text = "import trestle_settings\nfor sentence in trestle_settings.findings(): print(sentence)"
    return project.python(text).stdout.splitlines()


def test_a_new_project_has_nothing_that_cannot_be_undone(project):
    assert findings(project) == []


def test_what_a_project_does_in_debug_is_found_wherever_it_is_written(project):
    project.write("shop/base.py", "DEBUG = True\nif DEBUG:\n    TOOLBAR = True\n")
    project.write(
        "shop/live.py", "from .base import *\nfrom .settings import *\nDEBUG = False\nX = 1 if DEBUG else 2\n"
    )
    project.env["TRESTLE_SETTINGS_MODULE"] = "shop.live"
    sentences = findings(project)
    assert len(sentences) == 1, "a branch that DEBUG = False was asked for is what it should be"
    assert sentences[0].startswith("shop.base, line 2: ")


def test_django_configurations_are_refused_in_one_sentence(project):
    project.add("from configurations import Configuration\nclass Live(Configuration): pass")
    done = project.run("-m", "django", "check")
    assert done.returncode != 0
    assert "ImproperlyConfigured: shop.settings uses django-configurations" in done.stderr.splitlines()[-1]
