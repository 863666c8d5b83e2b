"""The ring of cache hosts as a cache of Django's: losing a host fails nothing, and moves its own keys alone.

CACHE_BACKEND names RingCache for projects that read CACHE_URL. ``key`` is for caches that a project believes to be in
memory or in files, where any key will do.
"""

import hashlib
import re

from django.core.cache.backends.memcached import PyMemcacheCache
from pymemcache import HashClient

LONGEST = 250
REFUSED = re.compile(r"[\x00-\x20\x7f]")
# A host that does not answer costs each thread one timeout, and is left out for some seconds: the others have its keys
# then, and theirs stay where they are.
OPTIONS = {
    "ignore_exc": True,
    "connect_timeout": 0.1,
    "timeout": 0.1,
    "no_delay": True,
    "retry_attempts": 0,
    "dead_timeout": 10,
}


class Ring(HashClient):
    def _set_many(self, client, values, *args, **kwargs):
        """pymemcache keeps a failure to itself where it is to be ignored, and would ask the dead host each time."""
        try:
            failed = client.set_many(values, *args, **kwargs)
        except Exception as error:
            return [], list(values), error
        return [key for key in values if key not in failed], failed, None


class RingCache(PyMemcacheCache):
    def __init__(self, server, params):
        super().__init__(server, params | {"OPTIONS": OPTIONS | (params.get("OPTIONS") or {})})
        self._class = Ring


def key(key, key_prefix, version):
    """Django's own; hashed where memcached would refuse it."""
    made = f"{key_prefix}:{version}:{key}"
    if len(made.encode()) <= LONGEST and not REFUSED.search(made):
        return made
    return f"{key_prefix}:{version}:{hashlib.sha256(made.encode()).hexdigest()}"
