#!/usr/bin/python
"""Documentation of the action plugin of the same name, which needs no Python on the host."""

DOCUMENTATION = r"""
module: host_facts
short_description: The few facts that Trestle goes by, asked with one command
description:
  - Returns facts as C(ansible.builtin.setup) names them. They are asked with a shell's commands, since to start Python
    on every host of an environment takes longer than a deploy may.
  - Fails where the host has no C(/usr/bin/python3).
"""

EXAMPLES = r"""
- name: Gather the facts of every host
  host_facts:
"""

RETURN = r"""
ansible_facts:
  description: What the host is.
  returned: success
  type: dict
  contains:
    distribution: {description: Its name, as in C(Debian)., type: str}
    distribution_version: {description: As in C(13); empty for one that has none., type: str}
    distribution_major_version: {description: What is before the point., type: str}
    memtotal_mb: {description: Memory in MB., type: int}
    processor_vcpus: {description: Processors that are online., type: int}
    default_ipv4: {description: The address, interface and gateway of the way out; empty without one., type: dict}
    all_ipv4_addresses: {description: Every IPv4 address but those of loopback., type: list}
    mounts:
      description: The file systems of C(/), C(/var) and C(/srv), with C(mount) and C(size_available) in bytes.
      type: list
"""
