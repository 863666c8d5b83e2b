"""The settings of a site whose project reads none from its environment: the project's, the environment laid over them.

DJANGO_SETTINGS_MODULE names this module, TRESTLE_SETTINGS_MODULE the project's. Each function in RULES is one rule: it
is given the project's settings and returns those that take their place. What no rule names stays as the project has it.
"""

import importlib
import os
import re
from copy import deepcopy
from email.utils import parseaddr
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import django
import trestle_logging
from django.conf import global_settings
from trestle_findings import findings, refuse_configurations

__all__ = ["findings"]

env = os.environ

# Backends that only a development machine has, by what their names have in common.
DEVELOPMENT_CACHE = re.compile(r"locmem|filebased|dummy|memcached", re.IGNORECASE)
THIS_MACHINE = re.compile(r"(\w+://)?([^@/]*@)?(localhost|127\.|\[::1\]|/)|unix:")
DEVELOPMENT_MAIL = re.compile(r"^django\.core\.mail\.backends\.")
DEVELOPMENT_SESSIONS = {f"django.contrib.sessions.backends.{name}" for name in ("cache", "file")}
POSTGRESQL = re.compile(r"postgres|postgis|psql", re.IGNORECASE)
# How a project reaches its own database server says nothing of pgpool on this host, which speaks no TLS.
CONNECTION_OPTION = re.compile(r"^(ssl|gss|host|port|service|passfile|target_session_attrs)")
UPLOAD_STORAGE = "django.core.files.storage.FileSystemStorage"
UPLOAD_STORAGES = {UPLOAD_STORAGE, "django.core.files.storage.filesystem.FileSystemStorage"}
STATIC_STORAGES = {
    f"django.contrib.staticfiles.storage.{name}" for name in ("StaticFilesStorage", "ManifestStaticFilesStorage")
}
# Django 4.2 and 5.0 still know them, and refuse them beside STORAGES, which replaces them here.
OLD_STORAGES = {"default": "DEFAULT_FILE_STORAGE", "staticfiles": "STATICFILES_STORAGE"}


def comma_list(name):
    return [part.strip() for part in env.get(name, "").split(",") if part.strip()]


def flag(name):
    return env.get(name, "").lower() in ("1", "true", "yes", "on")


def debug(project):
    return {"DEBUG": False}


def secret_keys(project):
    return {"SECRET_KEY": env["SECRET_KEY"], "SECRET_KEY_FALLBACKS": comma_list("SECRET_KEY_FALLBACKS")}


def hosts(project):
    return {
        "ALLOWED_HOSTS": comma_list("ALLOWED_HOSTS"),
        "CSRF_TRUSTED_ORIGINS": comma_list("CSRF_TRUSTED_ORIGINS"),
    }


def tls(project):
    """TLS ends at the load balancers, which redirect http and set this header on every request."""
    return {
        "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https"),
        "SECURE_SSL_REDIRECT": True,
        "SESSION_COOKIE_SECURE": True,
        "CSRF_COOKIE_SECURE": True,
    }


def hsts(project):
    return {
        "SECURE_HSTS_SECONDS": int(env.get("SECURE_HSTS_SECONDS", 0)),
        "SECURE_HSTS_INCLUDE_SUBDOMAINS": flag("SECURE_HSTS_INCLUDE_SUBDOMAINS"),
        "SECURE_HSTS_PRELOAD": flag("SECURE_HSTS_PRELOAD"),
    }


def checks(project):
    """Subdomains and preloading are the domain owner's to choose: no check finds fault with what was not chosen."""
    chosen = hsts(project)
    not_chosen = {
        "security.W005": not chosen["SECURE_HSTS_INCLUDE_SUBDOMAINS"],
        "security.W021": not chosen["SECURE_HSTS_PRELOAD"],
    }
    silenced = [check for check, is_silenced in not_chosen.items() if is_silenced]
    own = [*project["SILENCED_SYSTEM_CHECKS"], *comma_list("TRESTLE_SILENCED_CHECKS")]
    return {"SILENCED_SYSTEM_CHECKS": sorted({*own, *silenced})}


def databases(project):
    """`default` is pgpool on this host, and `replica` the same for reading, from a standby where one is up."""
    own = project["DATABASES"].get("default", {})
    url = urlsplit(env["DATABASE_URL"])
    default = own | {
        "ENGINE": database_engine(own.get("ENGINE", "")),
        "NAME": unquote(url.path[1:]),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": url.hostname,
        "PORT": str(url.port or ""),
        "OPTIONS": database_options(own),
        "CONN_MAX_AGE": int(env.get("CONN_MAX_AGE", 0)),
        "CONN_HEALTH_CHECKS": True,
        # pgpool sends a cursor's reads to the primary, whatever the alias.
        "DISABLE_SERVER_SIDE_CURSORS": True,
    }
    if default["OPTIONS"].get("pool"):
        default["CONN_MAX_AGE"] = 0  # Django's own pool refuses any other
    return {"DATABASES": project["DATABASES"] | {"default": default, "replica": replica(default)}}


def database_engine(own):
    """A PostgreSQL backend of the project's stays, since it may be one that does more."""
    if POSTGRESQL.search(own):
        return own
    return "django.contrib.gis.db.backends.postgis" if ".gis." in own else "django.db.backends.postgresql"


def database_options(own):
    """The project's, where they are PostgreSQL's; its own -c comes after ours, and so wins."""
    options = own.get("OPTIONS", {}) if POSTGRESQL.search(own.get("ENGINE", "")) else {}
    kept = {name: value for name, value in options.items() if not CONNECTION_OPTION.match(name)}
    kept.setdefault("connect_timeout", 5)
    # A migration or a report may take its time; a request may not.
    seconds = float(env.get("STATEMENT_TIMEOUT", 0)) if flag("TRESTLE_SERVES_REQUESTS") else 0
    if seconds:
        kept["options"] = f"-c statement_timeout={int(seconds * 1000)} {kept.get('options', '')}".strip()
    return kept


def replica(default):
    """pgpool knows it by its application_name. It never writes, and its tests, if there are any, are default's."""
    options = default["OPTIONS"]
    return default | {
        "OPTIONS": options
        | {
            "application_name": f"{env['TRESTLE_SITE']}/replica",
            "options": f"{options.get('options', '')} -c default_transaction_read_only=on".strip(),
        },
        "ATOMIC_REQUESTS": False,
        "TEST": {"MIRROR": "default"},
    }


def caches(project):
    """What a development machine caches in goes to the ring of cache hosts; other servers, and the database, stay."""
    url = urlsplit(env["CACHE_URL"])
    ring, site = url.netloc.split(","), parse_qs(url.query).get("key_prefix", [""])[0]
    return {
        "CACHES": {
            alias: on_ring(alias, own, ring, site) if is_development_cache(own) else own
            for alias, own in project["CACHES"].items()
        }
    }


def is_development_cache(own):
    """Also a Redis on the same machine: a web host has none."""
    location = own.get("LOCATION", "")
    servers = re.split("[;,]", location) if isinstance(location, str) else location
    return bool(DEVELOPMENT_CACHE.search(own["BACKEND"])) or all(THIS_MACHINE.match(server) for server in servers)


def on_ring(alias, own, ring, site):
    """Aliases share no keys, as before."""
    prefixes = [site, "" if alias == "default" else alias, own.get("KEY_PREFIX", "")]
    return {
        "KEY_FUNCTION": "trestle_cache.key",
        **{key: own[key] for key in ("TIMEOUT", "VERSION", "KEY_FUNCTION") if key in own},
        "BACKEND": env["CACHE_BACKEND"],
        "LOCATION": ring,
        # A project that read CACHE_URL has the site's prefix already.
        "KEY_PREFIX": ":".join(dict.fromkeys(filter(None, prefixes))),
    }


def sessions(project):
    """A lost cache host, or another web host, must log nobody out."""
    if project["SESSION_ENGINE"] not in DEVELOPMENT_SESSIONS:
        return {}
    return {"SESSION_ENGINE": "django.contrib.sessions.backends.cached_db"}


def apps(project):
    """What a project made for SQLite, or with its sessions in a cache, does without: PostgreSQL's fields, a table."""
    wanted = ["django.contrib.postgres"] + ["django.contrib.sessions"] * bool(sessions(project))
    own = list(project["INSTALLED_APPS"])
    missing = [name for name in wanted if not any(app == name or app.startswith(f"{name}.") for app in own)]
    return {"INSTALLED_APPS": own + missing}


def storages(project):
    """Uploads and static files are the media hosts'. A storage that is a service of its own stays, with its URL."""
    own = project["STORAGES"] | {
        alias: {"BACKEND": project.own[name]}
        for alias, name in OLD_STORAGES.items()
        if name in project.own and hasattr(global_settings, name)
    }
    found = {"STATIC_ROOT": Path(env["STATIC_ROOT"]), "MEDIA_ROOT": Path(env["MEDIA_ROOT"])}
    if own.get("default", {}).get("BACKEND", UPLOAD_STORAGE) in UPLOAD_STORAGES:
        own["default"] = {"BACKEND": env["MEDIA_STORAGE"]}
        found["MEDIA_URL"] = env["MEDIA_URL"]
    if own.get("staticfiles", {}).get("BACKEND") in STATIC_STORAGES:
        own["staticfiles"] = {"BACKEND": "trestle_storage.StaticStorage"}
        found["STATIC_URL"] = env["STATIC_URL"]
    return {"STORAGES": own, **found}


def mail(project):
    """Through this host's relay. A mail service of the project's own stays, but not where mail must not get out."""
    found = {
        "DEFAULT_FROM_EMAIL": sender(project, "DEFAULT_FROM_EMAIL"),
        "SERVER_EMAIL": sender(project, "SERVER_EMAIL"),
    }
    if not DEVELOPMENT_MAIL.match(project["EMAIL_BACKEND"]) and not flag("MAIL_SWALLOW"):
        return found
    relay = urlsplit(env["EMAIL_URL"])
    return found | {
        "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "EMAIL_HOST": relay.hostname,
        "EMAIL_PORT": relay.port,
        "EMAIL_HOST_USER": "",
        "EMAIL_HOST_PASSWORD": "",
        "EMAIL_USE_TLS": False,
        "EMAIL_USE_SSL": False,
        "EMAIL_TIMEOUT": project["EMAIL_TIMEOUT"] or 10,
    }


def sender(project, name):
    """What the site's entry says, else the project; nobody is reached at Django's own default, a localhost."""
    if env.get("MAIL_FROM"):
        return env["MAIL_FROM"]
    own = project[name]
    return f"noreply@{comma_list('ALLOWED_HOSTS')[0]}" if own == getattr(global_settings, name) else own


def people(project):
    """Pairs of name and address until Django 5, addresses from 6."""

    def listed(name):
        addresses = comma_list(name)
        return addresses if django.VERSION >= (6, 0) else [parseaddr(address) for address in addresses]

    return {"ADMINS": listed("ADMINS"), "MANAGERS": listed("MANAGERS")}


def logs(project):
    """To the journal; a project that sets LOGGING_CONFIG to None sees to its logs itself."""
    return {"LOGGING": trestle_logging.to_journal(project["LOGGING"])} if project["LOGGING_CONFIG"] else {}


RULES = (debug, secret_keys, hosts, tls, hsts, checks, databases, caches, sessions, apps, storages, mail, people, logs)


class Project(dict):
    """The project's settings, a copy, over Django's defaults; ``own`` are those that it sets itself."""

    def __init__(self, module):
        self.own = {name: value for name, value in vars(module).items() if name.isupper()}
        defaults = {name: value for name, value in vars(global_settings).items() if name.isupper()}
        super().__init__(deepcopy(defaults) | {name: copied(value) for name, value in self.own.items()})


def copied(value):
    """Only what rules change in depth is copied: a setting may be anything."""
    return deepcopy(value) if isinstance(value, (dict, list)) else value


refuse_configurations(env["TRESTLE_SETTINGS_MODULE"])
_project = Project(importlib.import_module(env["TRESTLE_SETTINGS_MODULE"]))
globals().update({name: value for name, value in _project.own.items() if name not in OLD_STORAGES.values()})
for _rule in RULES:
    globals().update(_rule(_project))
