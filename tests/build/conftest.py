"""The build container of the lab, as the role `build` leaves it."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lab import containers  # noqa: E402

HOME = "/var/lib/trestle/build"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


class Builder:
    # Where a test may install programs of its own.
    tools = "/var/tmp/tools"

    def __init__(self):
        lab = containers.Lab(os.environ.get("ENV", "dev"))
        self.container = lab.client.containers.get(lab.build_container)
        defaults = yaml.safe_load((ROOT / "roles/build/defaults/main.yml").read_text())
        site = yaml.safe_load((ROOT / "group_vars/all/sites.yml").read_text())["site_defaults"]
        self.job = site | {
            "site": "tidings",
            "app_type": "wsgi",
            "version": "",
            "requirement": "",
            "default_packages": [],
            "tools": defaults["build_tools"],
        }

    def run(self, command: str, folder: str = "/") -> tuple[int, str]:
        environment = {
            "HOME": HOME,
            "PATH": f"{self.tools}/bin:/usr/bin:/bin",
            # The tools bring authorities of their own; the container may have more.
            "SSL_CERT_FILE": CERTIFICATES,
            "REQUESTS_CA_BUNDLE": CERTIFICATES,
        }
        done = self.container.exec_run(
            ["sh", "-ec", command], user="trestle-build", workdir=folder, environment=environment
        )
        return done.exit_code, done.output.decode()

    def must(self, command: str, folder: str = "/") -> str:
        code, said = self.run(command, folder)
        assert code == 0, f"{command}\n{said}"
        return said

    def build(self, folder: str) -> tuple[int, str]:
        """Of a folder with job.json and source.tar."""
        self.must("tar -cf job.tar job.json source.tar", folder)
        return self.run(f"/usr/local/lib/trestle/build-artifact {folder}/job.tar")

    def members(self, said: str) -> list[str]:
        """Of the artifact that was built."""
        return self.must(f"tar -tf {HOME}/artifacts/{said.strip()}").splitlines()

    def put(self, files: dict[str, str], folder: str) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, text in files.items():
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(text), 0o666
                tar.addfile(info, io.BytesIO(text.encode()))
        self.container.put_archive(folder, archive.getvalue())


@pytest.fixture(scope="session")
def builder():
    return Builder()
