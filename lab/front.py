"""Requests to the front door: names stay those of the URL, connections go to one address."""

from __future__ import annotations

from pathlib import Path

import requests
import urllib3


class To(requests.adapters.HTTPAdapter):
    """Connects to one address; the request's Host, SNI and the certificate's name stay those of the URL."""

    def __init__(self, address: str):
        self.address = address
        super().__init__()

    def build_connection_pool_key_attributes(self, request, verify, cert=None):
        host_params, pool_kwargs = super().build_connection_pool_key_attributes(request, verify, cert)
        if host_params["scheme"] == "https":
            pool_kwargs |= {"server_hostname": host_params["host"], "assert_hostname": host_params["host"]}
        request.headers["Host"] = urllib3.util.parse_url(request.url).netloc
        return host_params | {"host": self.address}, pool_kwargs


def session(address: str, ca_file: Path) -> requests.Session:
    """A session whose requests all go to ``address``, whatever name the URL has."""
    made = requests.Session()
    made.verify = str(ca_file)
    made.trust_env = False
    made.mount("https://", To(address))
    made.mount("http://", To(address))
    return made
