"""ara, which has no manage.py and no project folder: what its own programming interface is given, it shows."""

from __future__ import annotations

import uuid

from forms import TIMEOUT


def test_what_is_recorded_is_shown(front, url):
    session, name = front.session(), uuid.uuid4().hex
    record = {
        "name": name,
        "ansible_version": "2.19",
        "status": "completed",
        "started": "2026-01-01T00:00:00Z",
        "path": f"{name}.yml",
    }
    answer = session.post(url("ara", "/api/v1/playbooks"), json=record, timeout=TIMEOUT)
    assert answer.status_code == 201, answer.text
    assert name in session.get(url("ara"), timeout=TIMEOUT).text
