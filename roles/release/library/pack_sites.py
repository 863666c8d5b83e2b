#!/usr/bin/python
"""Documentation of the action plugin of the same name, which does the work on the controller."""

DOCUMENTATION = """
module: pack_sites
short_description: Pack each site's project into an archive named by its content
description:
  - Runs on the controller. The same content, packages and kind of application give the same release id.
options:
  sites:
    description: Each site's C(name), C(source), C(packages), C(app_type) and C(settings_module).
    type: list
    elements: dict
    required: true
  repository:
    description: The folder that a relative C(source.path) starts from.
    type: path
    required: true
  cache:
    description: Where archives and git clones are kept.
    type: path
    required: true
  packages:
    description: Requirements that every virtualenv needs.
    type: list
    elements: str
    required: true
  django_packages:
    description: Requirements that a Django site needs besides.
    type: list
    elements: str
    required: true
author: Trestle
"""

EXAMPLES = """
- name: Pack the sites' projects
  pack_sites:
    sites: "{{ site_list }}"
    repository: /path/of/the/repository
    cache: /path/of/the/repository/.cache
    packages: [gunicorn]
    django_packages: []
"""

RETURN = """
releases:
  description: One C({site, id, archive, app_type, packages, folder, static}) for each site.
  type: list
  returned: always
"""
