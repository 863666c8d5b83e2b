"""The front page's list of stories, kept in the cache.

Only the list is kept: the rest of the page says who is logged in and which web host answered. Its key carries an
edition, and every change of a story starts a new one, so that a list read just before it cannot be stored over it.
"""

import time

from django.conf import settings
from django.core.cache import cache

SECONDS = 30
EDITION = "front-edition"


def key(page: int) -> str:
    edition = cache.get_or_set(EDITION, time.time_ns, None)
    return f"front:{settings.RELEASE}:{edition}:{page}"


def forget() -> None:
    cache.set(EDITION, time.time_ns(), None)
