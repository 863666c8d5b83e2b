"""Inventory overlay: every host of the sources before it is reached at its lab container."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ansible.plugins.inventory import BaseInventoryPlugin

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lab import containers

DOCUMENTATION = """
name: trestle_lab
short_description: Containers in place of an environment's hosts
description:
  - Comes after a real inventory, as in C(-i production -i lab), and overlays each of its hosts with the
    address, key and user of the container that stands in for it, and with throwaway secrets.
  - A host without a container stops the run, so that nothing meant for a lab reaches a real host.
  - The lab is named by the environment variable E(TRESTLE_LAB), by default C(demo).
options:
  plugin:
    description: Token that marks a file as a source of this plugin.
    required: true
    choices: [trestle_lab]
"""


class InventoryModule(BaseInventoryPlugin):
    NAME = "trestle_lab"

    def verify_file(self, path):
        return super().verify_file(path) and path.endswith("containers.yml")

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        env_name = inventory.groups["all"].get_vars().get("env_name")
        if not inventory.hosts or not env_name:
            sys.exit("error: the lab overlays an inventory: name that first, as in -i production -i lab.")
        hosts = sorted(inventory.hosts)
        lab = containers.Lab(env_name)
        if "MOLECULE_SCENARIO_NAME" in os.environ and not lab.whole(hosts):
            # Molecule reads the inventory before it creates the hosts, and before it removes what another checkout or a
            # run that was cut short has left: nobody must be reached by then.
            for host in hosts:
                inventory.set_variable(host, "ansible_host", f"{host}.has-no-container.invalid")
            return
        try:
            overlay = lab.overlay(hosts)
        except containers.LabError as error:
            # One sentence, where Ansible would add the failures of every other inventory plugin.
            sys.exit(f"error: {error}")
        for host, variables in overlay.items():
            for name, value in variables.items():
                inventory.set_variable(host, name, value)
