#!/usr/bin/python
"""Documentation of the action plugin of the same name, which does the work on the controller."""

DOCUMENTATION = """
module: pack_sites
short_description: Pack each site's source, and say what is to be built of it
description:
  - Runs on the controller. Sites with the same source and build options have the same C(key), and so one artifact.
  - Leaves an archive of C(source.tar) and C(job.json) for each key in the cache.
options:
  sites:
    description: The sites with every key, as in C(site_list).
    type: list
    elements: dict
    required: true
  repository:
    description: The folder that a relative C(source.path) starts from.
    type: path
    required: true
  cache:
    description: Where jobs and git clones are kept.
    type: path
    required: true
  programs:
    description:
      - Folders of what hosts are to have under their roots, each list packed as one archive.
      - Those of C(build) are what the build host has; another version of them checks anew.
    type: dict
    required: true
  cache_days:
    description: Days after which artifacts, jobs and clones in the cache that no run wanted are removed.
    type: int
    default: 30
  builder:
    description: The program that builds; another version of it builds anew.
    type: path
    required: true
  python:
    description: The Python that wheels are for, as in C(3.13).
    type: str
    required: true
  python_packages:
    description: Requirements that every virtualenv needs.
    type: list
    elements: str
    required: true
  django_packages:
    description: Requirements that a Django site needs besides.
    type: list
    elements: str
    required: true
  s3_packages:
    description: Requirements that a Django site needs besides where its uploads go to S3.
    type: list
    elements: str
    default: []
  tools:
    description: The requirements of each tool that reads a lock file.
    type: dict
    required: true
  versions:
    description: The version of a site's source that is wanted instead of the one in C(sites), by the site's name.
    type: dict
    default: {}
  pins:
    description: Releases of sites whose source is not packed, with C(id) and C(version), by the site's name.
    type: dict
    default: {}
  dirty:
    description: Whether a folder may have changes that are not committed.
    type: bool
    default: false
author: Trestle
"""

EXAMPLES = """
- name: Pack the sites' sources
  pack_sites:
    sites: "{{ site_list }}"
    repository: /path/of/the/repository
    cache: /path/of/the/repository/.cache
    programs: {build: [/path/of/the/repository/roles/build/files]}
    builder: /path/of/the/repository/roles/build/files/usr/local/lib/trestle/build-artifact
    python: "3.13"
    python_packages: [gunicorn]
    django_packages: []
    tools: {}
"""

RETURN = """
programs:
  description: The archive of each of C(programs).
  type: dict
  returned: always
digest:
  description: That of the programs of C(build).
  type: str
  returned: always
releases:
  description: >-
    One C({site, app_type, version, key, configuration, chosen, job}) for each site; of a pinned one with C(id), and
    without C(key).
  type: list
  returned: always
"""
