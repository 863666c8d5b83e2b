"""What a value of the right type must look like, by the `format` of its specification or by its own name."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping

from packaging.requirements import Requirement

LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
HOST_NAME = rf"({LABEL}\.)+[a-z][a-z0-9-]*[a-z0-9]"
MODULE = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"


def like(pattern: str) -> Callable:
    return lambda value: bool(re.fullmatch(pattern, str(value)))


def parsed(parse: Callable) -> Callable:
    """What a parser accepts; those used here say no with a ValueError."""

    def accepts(value) -> bool:
        try:
            return parse(str(value)) is not False
        except ValueError:
            return False

    return accepts


def between(first: float, last: float) -> Callable:
    return parsed(lambda value: first <= float(value) <= last)


is_address = parsed(ipaddress.IPv4Address)
is_network = parsed(ipaddress.IPv4Network)
is_host_name = like(rf"(?=.{{1,253}}$){HOST_NAME}")

FORMATS: dict[str, tuple[Callable, str]] = {
    "any": (lambda value: True, ""),
    "name": (like(r"[a-z][a-z0-9_-]*"), "a name of small letters, digits and dashes"),
    "word": (like(r"[\w.-]+"), "letters, digits, dots and dashes"),
    "identifier": (like(r"[a-z_][a-z0-9_]{0,62}"), "small letters, digits and _"),
    "host name": (is_host_name, "a host name, as in www.example.com"),
    "address": (is_address, "an IPv4 address"),
    "address or name": (
        lambda value: value == "" or is_address(value) or is_host_name(value),
        "an IPv4 address or a name",
    ),
    "mail host": (like(rf"((\d+\.){{3}}\d+|{HOST_NAME}|)(:\d+)?"), "a host, or host:port"),
    "mail address": (like(r"[^@\s,]+(@[^@\s,]+)?"), "one mail address"),
    "correspondent": (
        like(r"|[^,<>]+ <[^@\s,<>]+@[^@\s,<>]+>|[^@\s,<>]+(@[^@\s,<>]+)?"),
        "an address, or Ada <ada@example.com>",
    ),
    "secret": (like(r"[^,]+"), "text without a comma"),
    "network": (lambda value: "/" in str(value) and is_network(value), "a network, as in 198.51.100.0/24"),
    "port": (between(1, 65535), "a port from 1 to 65535"),
    "size": (like(r"\d+[kmgKMG]?"), "a number followed by k, m or g, as in 100m"),
    "quantity": (between(0, float("inf")), "0 or more"),
    "count": (between(1, float("inf")), "1 or more"),
    "percent": (between(1, 100), "a percentage from 1 to 100"),
    "router id": (between(1, 255), "a number from 1 to 255"),
    "module": (like(MODULE), "a Python module, as in shop.settings"),
    "WSGI module": (like(rf"{MODULE}(:[A-Za-z_]\w*)?"), "module or module:attribute"),
    "migration": (like(r"[A-Za-z_]\w*\.\w+"), "app.migration, as in news.0007_drop_title"),
    "requirement": (parsed(Requirement), "a requirement, as in name==1.0"),
    "Debian package": (like(r"[a-z0-9][a-z0-9+.-]+"), "the name of a Debian package"),
    "URL": (like(r"(https?://\S+)?"), "an address that begins with https://"),
}
# Names that say what they hold, for argument_specs know no formats.
NAMES = {
    r"(.*_)?port": "port",
    r".*_size|.*memory_limit": "size",
    r".*_(seconds|mb|days|hours)": "quantity",
    r".*_percent": "percent",
    r".*_router_id": "router id",
    r".*_networks": "network",
    r"(.*_)?domains?": "host name",
    r"address": "address",
    r"lb_vip": "address or name",
    r"mail_smarthost": "mail host",
    r"mail_admin": "mail address",
    r"admins|managers|mail_from": "correspondent",
}


def of(spec: Mapping, path: tuple) -> tuple[Callable, str]:
    """The check of a value, and what it should be."""
    if "format" in spec:
        return FORMATS[spec["format"]]
    name = next(step for step in reversed(path) if isinstance(step, str))
    return FORMATS[next((form for pattern, form in NAMES.items() if re.fullmatch(pattern, name)), "any")]
