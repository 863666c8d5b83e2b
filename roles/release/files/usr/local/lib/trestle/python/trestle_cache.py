"""The keys of caches that a project believes to be in memory or in files, where any key will do."""

import hashlib
import re

LONGEST = 250
REFUSED = re.compile(r"[\x00-\x20\x7f]")


def key(key, key_prefix, version):
    """Django's own; hashed where memcached would refuse it."""
    made = f"{key_prefix}:{version}:{key}"
    if len(made.encode()) <= LONGEST and not REFUSED.search(made):
        return made
    return f"{key_prefix}:{version}:{hashlib.sha256(made.encode()).hexdigest()}"
