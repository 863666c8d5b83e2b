"""The containers that stand in for the hosts of one environment."""

from __future__ import annotations

import contextlib
import hashlib
import io
import ipaddress
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

import docker
import yaml

from lab import engine
from tools import debian

ROOT = Path(__file__).resolve().parents[1]
IMAGE_FOLDER = ROOT / "lab/image"
CA_FOLDER = Path("/usr/local/share/ca-certificates")
LABEL = "trestle.lab"
KEY_LABEL = "trestle.key"
BOOT_SECONDS = 120
# Of a container that the engine was removing when it was stopped: it starts no more.
HALF_REMOVED = ("removing", "dead")

# Megabytes of memory a host of each tier may use; a host in several tiers has their sum.
MEMORY_MB = {"lb": 256, "web": 1024, "db": 768, "cache": 256, "media": 256, "monitor": 768}
HOST_CORES = 1
FREEZE_ATTEMPTS = 5
# Every container shows the load of the whole machine.
HOST_LOAD_LIMIT = 50

# systemd in a container takes half a dozen, and a usual limit of 128 would end the second lab's while they boot.
INOTIFY, INOTIFY_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances"), 1024

# The last byte of the addresses in the lab's /24. Those the engine hands out by itself (strangers) lie between.
FIRST_HOST, FIRST_STRANGER, FLOATING = 10, 128, 250


# A server's interface keeps its name while its network is away. A container gets another one, and the engine must find
# it under that name when it takes it away again.
OURS_AGAIN = """set -- $(ip -o route show default); [ "$5" = eth0 ] && exit; echo "$5" > /run/lab-interface
ip link set "$5" down; ip link set "$5" name eth0; ip link set eth0 up; ip route add default via "$3"
"""
THEIRS_AGAIN = "ip link set eth0 down; ip link set eth0 name $(cat /run/lab-interface)"


class LabError(Exception):
    """What is wrong with the lab, in one sentence."""


class Lab:
    """The lab of one environment; ``name`` keeps a test's lab apart from the demo's."""

    def __init__(self, env_name: str, name: str | None = None):
        self.env_name = env_name
        self.name = f"{name or os.environ.get('TRESTLE_LAB') or 'demo'}-{env_name}"
        self.prefix = f"trestle-{self.name}"
        self.folder = ROOT / ".lab" / self.name
        self.key = self.folder / "id_ed25519"
        self.public_key = self.key.with_suffix(".pub")
        self.secrets_file = self.folder / "secrets.yml"
        self.ca_file = self.folder / "ca.crt"
        # tools/build_host.py makes it; it goes with the lab.
        self.build_container = f"{self.prefix}-build"
        self._client = None

    @property
    def client(self) -> docker.DockerClient:
        if self._client is None:
            self._client = engine.connect()
            if self._client is None:
                raise LabError("No Docker Engine answers: make demo finds, installs or starts one.")
        return self._client

    def containers(self) -> dict[str, docker.models.containers.Container]:
        """Host name to container, running or not."""
        found = self.client.containers.list(all=True, filters={"label": f"{LABEL}={self.name}"})
        return {c.labels["trestle.host"]: c for c in found if "trestle.host" in c.labels}

    def whole(self, hosts: list[str]) -> bool:
        """Whether there is a container for each of these hosts, of this checkout, which still has its secrets."""
        if self.network() is None or not self.secrets_file.exists():
            return False
        found = self.containers()
        return all(name in found and self._is_ours(found[name]) for name in hosts)

    def _is_ours(self, container) -> bool:
        """No other checkout's, of whose secrets and key this one knows nothing."""
        return self.public_key.exists() and container.labels.get(KEY_LABEL) == self.public_key.read_text().strip()

    def network(self):
        found = self.client.networks.list(names=[f"^{self.prefix}$"])
        return found[0] if found else None

    def subnet(self) -> ipaddress.IPv4Network:
        network = self.network()
        if network is None:
            raise LabError(f"There is no lab {self.name}: run make demo ENV={self.env_name} first.")
        return ipaddress.ip_network(network.attrs["IPAM"]["Config"][0]["Subnet"])

    def address(self, container) -> str:
        return container.labels["trestle.address"]

    def secrets(self) -> dict[str, str]:
        return yaml.safe_load(self.secrets_file.read_text())

    # What the inventory plugin adds to each host.

    def overlay(self, hosts: list[str]) -> dict[str, dict]:
        containers = self.containers()
        # A container that is stopped is a host that is down, as a real one may be.
        missing = [h for h in hosts if h not in containers]
        if missing:
            raise LabError(
                f"The lab {self.name} has no container for {', '.join(missing)}: "
                f"run make demo ENV={self.env_name} first."
            )
        subnet = self.subnet()
        common = self.secrets() | {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            "host_cores": HOST_CORES,
            "host_load_limit": HOST_LOAD_LIMIT,
            "certificates_source": "ca",
            "build_container": self.build_container,
            "mail_swallow": True,
            "admin_networks": [f"{subnet[1]}/32"],
            "lb_vip": str(subnet[FLOATING]) if self.has_floating_address(containers) else "",
        }
        return {
            host: common
            | {
                "ansible_host": self.address(containers[host]),
                "host_memory_mb": int(containers[host].labels["trestle.memory_mb"]),
            }
            for host in hosts
        }

    @staticmethod
    def tiers(container) -> list[str]:
        return container.labels["trestle.tiers"].split(",")

    def has_floating_address(self, containers: dict) -> bool:
        return sum("lb" in self.tiers(container) for container in containers.values()) > 1

    def table_tiers(self, containers: dict, name: str) -> list[str]:
        """A host's tiers as the table of services names them.

        "vip" is a balancer's where an address floats, "perlbal" where that is the engine.
        """
        tiers = self.tiers(containers[name])
        if "lb" not in tiers:
            return tiers
        found = [*tiers, "vip"] if self.has_floating_address(containers) else tiers
        asked = containers[name].status == "running" and containers[name].exec_run("systemctl is-enabled perlbal")
        return [*found, "perlbal"] if asked and asked.exit_code == 0 else found

    def front_address(self) -> str:
        """Where the site is reached: the floating address, or the only load balancer's."""
        containers = self.containers()
        if self.has_floating_address(containers):
            return str(self.subnet()[FLOATING])
        return next(self.address(c) for c in containers.values() if "lb" in self.tiers(c))

    # Making and removing.

    def up(self, tiers_of: dict[str, list[str]], say=print) -> None:
        """A running container for every host of ``tiers_of`` (host to its tiers), and for no other."""
        image = build_image(self.client, say)
        self._prepare_folder()
        if int(INOTIFY.read_text()) < INOTIFY_INSTANCES and os.access(INOTIFY, os.W_OK):
            INOTIFY.write_text(str(INOTIFY_INSTANCES))
        network = self.network() or self._make_network()
        self._remove_remains(tiers_of, say)
        for name, tiers in tiers_of.items():
            self._start(name, tiers, image, network)
        self._wait_for_boot(say)

    def _remove_remains(self, hosts: Collection[str], say) -> None:
        for name, container in self.containers().items():
            if name not in hosts:
                say(f"removing {name}, which the inventory no longer names")
                container.remove(force=True)
            elif container.status in HALF_REMOVED or not self._is_ours(container):
                say(f"removing what is left of an earlier {name}")
                container.remove(force=True)

    def down(self, say=print) -> None:
        """Remove every container and network of this lab, in whatever state they were left."""
        for container in self.client.containers.list(all=True, filters={"label": f"{LABEL}={self.name}"}):
            container.remove(force=True, v=True)
        with contextlib.suppress(docker.errors.NotFound):
            self.client.containers.get(self.build_container).remove(force=True)
        if network := self.network():
            network.reload()
            for guest in network.attrs.get("Containers", {}):
                network.disconnect(guest, force=True)
            network.remove()
        shutil.rmtree(self.folder, ignore_errors=True)
        say(f"lab {self.name} is gone")

    def _prepare_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        # Takes longer to import than all the rest, and every deploy imports this module.
        from tools import secrets

        if not self.secrets_file.exists() or set(self.secrets()) != set(secrets.names()):
            values = secrets.make(self.env_name)
            self.secrets_file.touch(mode=0o600)
            self.secrets_file.write_text(yaml.safe_dump(values))
            self.ca_file.write_text(values["vault_certificates_ca_certificate"])

    def _make_network(self):
        # The engine picks a free range; only a network whose range was given lets hosts keep their addresses.
        probe = self.client.networks.create(f"{self.prefix}-probe", labels={LABEL: self.name})
        probe.reload()
        free = ipaddress.ip_network(probe.attrs["IPAM"]["Config"][0]["Subnet"])
        probe.remove()
        subnet = next(free.subnets(new_prefix=24)) if free.prefixlen < 24 else free
        pool = docker.types.IPAMPool(subnet=str(subnet), gateway=str(subnet[1]), iprange=f"{subnet[FIRST_STRANGER]}/26")
        return self.client.networks.create(
            self.prefix, labels={LABEL: self.name}, ipam=docker.types.IPAMConfig(pool_configs=[pool])
        )

    def _free_address(self) -> str:
        taken = {self.address(c) for c in self.containers().values()}
        subnet = self.subnet()
        return next(str(subnet[n]) for n in range(FIRST_HOST, FIRST_STRANGER) if str(subnet[n]) not in taken)

    def _start(self, name: str, tiers: list[str], image: str, network) -> None:
        container = self.containers().get(name)
        if container is None:
            container = self._create(name, tiers, image, network)
        self.put_back(container)

    def put_back(self, container) -> None:
        """The host runs and is on its network, in whatever state it was left."""
        cut_off = not self.is_connected(container)
        if cut_off:
            self.network().connect(container, ipv4_address=self.address(container))
        if container.status == "paused":
            container.unpause()
        elif container.status != "running":
            container.start()
        if cut_off:
            container.exec_run(["sh", "-c", OURS_AGAIN])

    def cut_off(self, container) -> None:
        """The host runs, and nobody reaches it."""
        container.exec_run(["sh", "-c", f"[ ! -e /run/lab-interface ] || {{ {THEIRS_AGAIN}; }}"])
        self.network().disconnect(container)

    @staticmethod
    def freeze(container) -> None:
        """While its processes start others, the engine cannot always stop all of them ("unable to freeze")."""
        for attempt in range(1, FREEZE_ATTEMPTS + 1):
            try:
                return container.pause()
            except docker.errors.APIError as error:
                if attempt == FREEZE_ATTEMPTS:
                    raise LabError(f"{container.name} cannot be frozen: {error.explanation}") from error

    def power_off(self, container) -> None:
        """The host is gone at once, and says nothing more: now and then the engine leaves a dead one's network where it
        is for two minutes, which refuses connections in the place of the host that has come back."""
        try:
            container.exec_run(["ip", "link", "set", "eth0", "down"])
        finally:
            container.kill()

    def is_connected(self, container) -> bool:
        return self.prefix in container.attrs["NetworkSettings"]["Networks"]

    def _create(self, name: str, tiers: list[str], image: str, network):
        api = self.client.api
        memory_mb = sum(MEMORY_MB[tier] for tier in tiers)
        address = self._free_address()
        host_config = api.create_host_config(
            cgroupns="host",
            cap_add=["ALL"],
            cap_drop=[] if _may_have_sys_resource() else ["SYS_RESOURCE"],
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            tmpfs={"/run": "exec", "/run/lock": "", "/tmp": "exec"},
            binds={_cgroup_folder(): {"bind": "/sys/fs/cgroup", "mode": "rw"}},
            mem_limit=f"{memory_mb}m",
            memswap_limit=f"{memory_mb}m",
            shm_size="256m" if "db" in tiers else "64m",
            # The floating address moves when a balancer is silent for a third of a second; on a machine of its own
            # it is only when it is dead.
            cpu_shares=8192 if "lb" in tiers else 1024,
            sysctls={"net.ipv6.conf.all.disable_ipv6": "0"},
            # A host that reboots comes back; one that the engine stops or kills is down.
            restart_policy={"Name": "on-failure"},
        )
        made = api.create_container(
            image,
            name=f"{self.prefix}-{name}",
            hostname=name,
            host_config=host_config,
            networking_config=api.create_networking_config(
                {network.name: api.create_endpoint_config(ipv4_address=address)}
            ),
            labels={
                LABEL: self.name,
                KEY_LABEL: self.public_key.read_text().strip(),
                "trestle.host": name,
                "trestle.tiers": ",".join(tiers),
                "trestle.address": address,
                "trestle.memory_mb": str(memory_mb),
            },
        )
        api.put_archive(made["Id"], "/root", _authorized_key(self.public_key.read_bytes()))
        return self.client.containers.get(made["Id"])

    def _wait_for_boot(self, say) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        waiting = {name: c for name, c in self.containers().items()}
        while waiting:
            for name, container in list(waiting.items()):
                container.reload()
                if container.status != "running":
                    last = container.logs(tail=1).decode().strip() or "it said nothing"
                    raise LabError(
                        f"{name} stopped while it booted ({last}): "
                        f"see {INOTIFY}, which should be {INOTIFY_INSTANCES} or more, and the memory that is free."
                    )
                if container.exec_run(["systemctl", "is-active", "--quiet", "ssh"]).exit_code == 0:
                    del waiting[name]
            if time.monotonic() > deadline:
                raise LabError(f"{', '.join(waiting)} did not boot within {BOOT_SECONDS} s: see docker logs.")
            time.sleep(0.5 if waiting else 0)


def _authorized_key(public: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        folder = tarfile.TarInfo(".ssh")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(folder)
        file = tarfile.TarInfo(".ssh/authorized_keys")
        file.size, file.mode = len(public), 0o600
        archive.addfile(file, io.BytesIO(public))
    return out.getvalue()


def _cgroup_folder() -> str:
    """What systemd in a container needs at /sys/fs/cgroup: the version 2 tree, wherever this host has it."""
    unified = Path("/sys/fs/cgroup/unified")
    return str(unified) if unified.is_dir() else "/sys/fs/cgroup"


def _may_have_sys_resource() -> bool:
    bounding = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd"))
    return bool(int(bounding.split()[1], 16) >> 24 & 1)


# The host image.


def build_image(client: docker.DockerClient, say=print) -> str:
    """The tag of the host image, built where this version of it is not there yet."""
    certificates = sorted(CA_FOLDER.rglob("*.crt")) if CA_FOLDER.is_dir() else []
    parts = [p for p in sorted(IMAGE_FOLDER.iterdir()) if p.is_file()] + certificates
    tag = "trestle-host:" + hashlib.sha256(b"".join(p.read_bytes() for p in parts)).hexdigest()[:12]
    if client.images.list(name=tag):
        return tag
    base = _base_image(client, say)
    say(f"building the host image {tag}")
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder) / "context"
        shutil.copytree(IMAGE_FOLDER, context)
        (context / "ca").mkdir()
        for certificate in certificates:
            shutil.copy(certificate, context / "ca")
        try:
            client.images.build(path=str(context), tag=tag, buildargs={"BASE": base}, rm=True)
        except docker.errors.BuildError as error:
            last = [line["stream"].strip() for line in error.build_log if line.get("stream", "").strip()][-5:]
            raise LabError(f"The host image could not be built: {' | '.join(last)}") from error
    return tag


def _base_image(client: docker.DockerClient, say) -> str:
    """debian:13 where a registry has it, the same made by mmdebstrap where none is reached."""
    for tag in ("debian:13", "trestle-debian:13"):
        if client.images.list(name=tag):
            return tag
    try:
        say("pulling debian:13")
        client.images.pull("debian", tag="13")
        return "debian:13"
    except docker.errors.APIError:
        say("no registry has debian:13 for us: making it with mmdebstrap")
    try:
        mmdebstrap = debian.ensure("mmdebstrap", say=say)
    except debian.InstallError as error:
        raise LabError(str(error)) from error
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root.tar"
        done = subprocess.run([mmdebstrap, "--variant=minbase", "trixie", str(root)], capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"mmdebstrap could not make a Debian root: {done.stderr.strip().splitlines()[-1]}")
        client.api.import_image_from_file(str(root), repository="trestle-debian", tag="13")
    return "trestle-debian:13"
