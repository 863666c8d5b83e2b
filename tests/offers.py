"""Something to patch: packages of a higher version, offered by a repository on the host itself."""

from __future__ import annotations

import shlex

REPOSITORY = "/var/tmp/trestle-packages"
LIST = "/etc/apt/sources.list.d/trestle-offers.list"
HIGHER = "+trestle1"
# The packages of Debian's that make each tier what it is.
OF_TIER = {
    "cache": ["memcached"],
    "media": ["nginx"],
    "db": ["etcd-server", "postgresql-17"],
    "web": ["pgpool2"],
    "lb": ["nginx"],
    "vip": ["keepalived"],
    "monitor": ["nagios4-core"],
}
# The same package as is installed, but for its version. Compressing it would take longer than all else.
OFFER = f"""
set -e
rm -rf {REPOSITORY} && mkdir {REPOSITORY} && cd {REPOSITORY}
for package in %s; do
    version=$(dpkg-query -W -f '${{Version}}' $package)
    apt-get download -q $package=${{version%%%%{HIGHER}*}}
    dpkg-deb -R ${{package}}_*.deb unpacked && rm ${{package}}_*.deb
    sed -i "s/^Version: .*/Version: $version{HIGHER}/" unpacked/DEBIAN/control
    dpkg-deb -Znone -b unpacked $package.deb && rm -r unpacked
    dpkg-deb -f $package.deb
    echo "Filename: ./$package.deb"
    echo "Size: $(stat -c %%s $package.deb)"
    echo "SHA256: $(sha256sum $package.deb | cut -d ' ' -f 1)"
    echo
done > {REPOSITORY}.new
mv {REPOSITORY}.new Packages
echo 'deb [trusted=yes] file:{REPOSITORY} ./' > {LIST}
"""
WITHDRAW = f"rm -rf {LIST} {REPOSITORY}"


def offer(packages: list[str]) -> str:
    """The script that offers a higher version of each on the host where it is run."""
    return OFFER % " ".join(map(shlex.quote, packages))


def versions(packages: list[str]) -> str:
    """The command that prints a line of package and version for each."""
    return f"dpkg-query -W -f '${{Package}} ${{Version}}\\n' {' '.join(map(shlex.quote, packages))}"
