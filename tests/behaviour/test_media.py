"""The media tier: what was uploaded to one host is served by every one, and served well."""

from __future__ import annotations

import base64
import io
import re
import statistics
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import test_site
from conftest import hosts_of, is_spare
from pictures import picture
from runs import wait

CATCH_UP_SECONDS = 60
# The storage waits for 5.
SLOW_DISK_SECONDS = 3.5
HASHED = "max-age=31536000, immutable"


@pytest.fixture(scope="module")
def site(settings) -> str:
    return sorted(settings["sites"])[0]


@pytest.fixture(scope="module")
def media(host, lab):
    return Media(host, lab)


class Media:
    """curl, run where the request would come from in earnest: on a web host (uploads) or a load balancer (reads)."""

    def __init__(self, host, lab):
        self.host, self.secrets = host, lab.secrets()
        self.addresses = {name: lab.address(lab.containers()[name]) for name in hosts_of("media")}

    def curl(self, on: str, url: str, *options: str, password: str | None = None, body: str | None = None):
        """(status, headers, body) of one request."""
        command = ["curl", "-sS", "-i", "-m", "10", *options, url]
        if password is not None:
            header = "Basic " + base64.b64encode(f"upload:{password}".encode()).decode()
            command[1:1] = ["-H", f"'Authorization: {header}'"]
        if body is not None:
            command[1:1] = ["--data-binary", f"'{body}'"]
        done = self.host(on).run(" ".join(command))
        assert done.rc == 0, f"{url} from {on}: {done.stderr}"
        head, _, text = done.stdout.replace("\r\n", "\n").partition("\n\n")
        lines = head.splitlines()
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        return int(lines[0].split()[1]), headers, text

    def upload(self, name: str, path: str, method: str = "PUT", password: str | None = None, body: str | None = "x"):
        password = self.secrets["vault_media_upload_password"] if password is None else password
        url = f"http://{self.addresses[name]}:8083{path}"
        return self.curl(hosts_of("web")[0], url, "-X", method, password=password, body=body)

    def read(self, name: str, path: str, *options: str):
        return self.curl(hosts_of("lb")[0], f"http://{self.addresses[name]}:8081{path}", *options)

    def log(self, name: str) -> str:
        return self.host(name).run("tail -n 5 /var/log/nginx/error.log /var/log/nginx/access.log").stdout


@pytest.fixture
def uploaded(media, site):
    """The path of a text that was uploaded to the first media host alone."""
    path = f"tests/{uuid.uuid4()}/story.txt"
    first = hosts_of("media")[0]
    status, _, _ = media.upload(first, f"/{site}/{path}", body="picture of a story")
    assert status == 201, media.log(first)
    yield path
    for name in hosts_of("media"):
        media.upload(name, f"/{site}/{path}", "DELETE", body=None)


def test_an_upload_to_one_host_is_served_by_every_host(media, site, uploaded):
    for name in hosts_of("media"):
        status, headers, text = media.read(name, f"/{site}/media/{uploaded}")
        assert (status, text) == (200, "picture of a story"), f"{name}\n{media.log(name)}"
        assert headers["content-type"].startswith("text/plain")
        assert headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in headers["content-security-policy"], "an uploaded page could run scripts"


def test_the_storage_can_look_at_and_delete_an_upload_through_any_host(media, site, uploaded):
    for name in hosts_of("media"):
        status, _, text = media.upload(name, f"/{site}/{uploaded}", "GET", body=None)
        assert (status, text) == (200, "picture of a story"), f"{name}\n{media.log(name)}"
        status, _, _ = media.upload(name, f"/{site}/{uploaded}.absent", "GET", body=None)
        assert status == 404, name
    for name in hosts_of("media"):
        assert media.upload(name, f"/{site}/{uploaded}", "DELETE", body=None)[0] == 204, media.log(name)
    for name in hosts_of("media"):
        assert media.read(name, f"/{site}/media/{uploaded}")[0] == 404, name


def test_an_upload_reaches_a_visitor(front, settings, site, uploaded):
    session = front.session()
    for _ in range(2 * len(hosts_of("media"))):
        answer = session.get(f"https://{settings['sites'][site]['domains'][0]}/media/{uploaded}", timeout=10)
        assert (answer.status_code, answer.text) == (200, "picture of a story")


@pytest.mark.parametrize("password", ["", "wrong"])
def test_nobody_uploads_without_the_password(media, site, password):
    for name in hosts_of("media"):
        assert media.upload(name, f"/{site}/tests/stranger.txt", password=password)[0] == 401, name


def test_nobody_uploads_where_no_site_is(media):
    for name in hosts_of("media"):
        assert media.upload(name, "/no-such-site/file.txt")[0] == 404, name


def test_uploads_are_not_taken_where_files_are_served(media, site):
    for name in hosts_of("media"):
        assert media.read(name, f"/{site}/media/file.txt", "-X", "PUT", "-d", "x")[0] in (404, 405), name


def test_part_of_a_file_can_be_asked_for(media, site, uploaded):
    for name in hosts_of("media"):
        status, headers, text = media.read(name, f"/{site}/media/{uploaded}", "-r", "13-17")
        assert (status, text, headers["content-range"]) == (206, "story", "bytes 13-17/18"), f"{name}: {headers}"


def test_nothing_is_listed(media, site):
    for name in hosts_of("media"):
        for path in ("/", f"/{site}/", f"/{site}/static/", f"/{site}/media/", f"/{site}/media/tests/"):
            assert media.read(name, path)[0] in (403, 404), f"{name}{path}"


def test_a_name_with_a_hash_is_kept_for_a_year_and_another_is_not(host, media, site):
    for name in hosts_of("media"):
        folder = f"/srv/media/{site}/static/trestle-test"
        host(name).run(f"mkdir -p {folder} && echo 'a{{}}' | tee {folder}/a.css > {folder}/a.0123456789ab.css")
        try:
            _, hashed, _ = media.read(name, f"/{site}/static/trestle-test/a.0123456789ab.css")
            _, plain, _ = media.read(name, f"/{site}/static/trestle-test/a.css")
        finally:
            host(name).run(f"rm -r {folder}")
        assert HASHED in hashed["cache-control"], name
        assert hashed["content-type"].startswith("text/css"), name
        assert "immutable" not in plain["cache-control"], name


# What is acknowledged is kept.


@pytest.fixture(scope="module")
def saved(host, site):
    """saved(script): what it does with the site's own storage, s, is acknowledged."""
    files = "from django.core.files.base import ContentFile as C"
    storage = "from django.core.files.storage import default_storage as s"

    def run(script: str) -> None:
        done = host(hosts_of("web")[0]).run(f"site-manage {site} shell -v 0 -c '{files}; {storage}; {script}'")
        assert done.rc == 0, done.stderr[-3000:]

    return run


def disk(lab, name: str, site: str, folder: str) -> dict[str, str]:
    """Every file of a folder of uploads that a media host has itself: its time, to the nanosecond, and its content."""
    find = f"cd /srv/media/{site}/uploads/{folder} && find . -type f -printf '%p %T@ ' -exec cat {{}} \\;"
    # Not by SSH, which a host that boots does not answer.
    said = lab.containers()[name].exec_run(["sh", "-c", find]).output.decode()
    return dict(line.split(" ", 1) for line in said.splitlines() if line.startswith("./"))


def test_an_upload_was_given_to_two_hosts_when_it_is_acknowledged(host, site, saved):
    """By the logs: soon after, every host has it."""
    folder = f"tests/{uuid.uuid4()}"
    saved(f'[s.save("{folder}/" + str(n), C("text\\n")) for n in range(20)]')
    taken = f"grep -c 'PUT /{site}/{folder}/.* 201 ' /var/log/nginx/access.log"
    logged = {name: int(host(name).run(taken).stdout) for name in hosts_of("media")}
    assert sum(logged.values()) == 20 * min(2, len(logged)), logged


def test_an_upload_waits_for_slow_disks(host, media, site):
    """For as long as the storage does, since no other host would be faster: those of all hosts are slow at once."""
    path, every = f"/{site}/tests/{uuid.uuid4()}", hosts_of("media")
    with ThreadPoolExecutor(len(every)) as visitors:
        for name in every:
            host(name).run("systemctl kill --signal=STOP media-sync")
        try:
            answers = visitors.map(lambda name: media.upload(name, path)[0], every)
            time.sleep(SLOW_DISK_SECONDS)
        finally:
            for name in every:
                host(name).run("systemctl kill --signal=CONT media-sync")
        assert list(answers) == [201] * len(every)
    for name in every:
        media.upload(name, path, "DELETE", body=None)


@pytest.mark.skipif(not is_spare("media"), reason="this environment has one media host")
def test_that_a_file_is_nowhere_is_told_in_time_while_a_peer_is_frozen(lab, media, site):
    """The storage asks for each name before it saves, and waits 5 s."""
    container, seconds = lab.containers()[hosts_of("media")[-1]], []
    lab.freeze(container)
    try:
        for _ in range(2):
            begun = time.monotonic()
            status, _, _ = media.read(hosts_of("media")[0], f"/{site}/media/tests/{uuid.uuid4()}")
            seconds.append(time.monotonic() - begun)
            assert status == 404
    finally:
        container.unpause()
    assert seconds[0] < 4 and seconds[1] < 1, seconds


@pytest.fixture
def ask(front, settings, site, uploaded):
    """ask(_): the status of a file that was uploaded, and the seconds that it took."""

    def get(_=None) -> tuple[int, float]:
        begun = time.monotonic()
        with front.session() as session:
            url = f"https://{settings['sites'][site]['domains'][0]}/media/{uploaded}"
            status = session.get(url, timeout=30).status_code
        return status, time.monotonic() - begun

    return get


@pytest.mark.skipif(not is_spare("media"), reason="this environment has one media host")
def test_a_file_is_served_in_time_while_a_media_host_is_frozen(lab, ask):
    container = lab.containers()[hosts_of("media")[-1]]
    with ThreadPoolExecutor(4) as visitors:
        lab.freeze(container)
        try:
            answers = list(visitors.map(ask, range(40)))
        finally:
            container.unpause()
    seconds = sorted(seconds for _, seconds in answers)
    assert {status for status, _ in answers} == {200}
    assert seconds[-1] < 6 and statistics.median(seconds) < 1, seconds


@pytest.mark.skipif(not is_spare("media"), reason="this environment has one media host")
def test_a_file_is_served_at_once_after_all_media_hosts_were_frozen(lab, ask):
    """nginx asks none of them for a while where each has failed."""
    containers = [lab.containers()[name] for name in hosts_of("media")]
    for container in containers:
        lab.freeze(container)
    try:
        with ThreadPoolExecutor(4) as visitors:
            assert all(status >= 500 for status, _ in visitors.map(ask, range(4)))
    finally:
        for container in containers:
            container.unpause()
    answers = [ask() for _ in range(8)]
    assert {status for status, _ in answers} == {200} and max(seconds for _, seconds in answers) < 2, answers


@pytest.mark.skipif(not is_spare("media"), reason="this environment has one media host")
def test_a_host_that_was_away_catches_up_with_additions_changes_and_deletions(lab, site, saved):
    folder, away = f"tests/{uuid.uuid4()}", hosts_of("media")[-1]
    names = ["kept", "changed", "deleted", "rewritten"]
    saved(f'[s.save("{folder}/" + n, C("1\\n")) for n in {names!r}]'.replace("'", '"'))
    container = lab.containers()[away]
    lab.power_off(container)
    try:
        saved(
            f'[s.delete("{folder}/" + n) for n in ("changed", "deleted", "rewritten")]; '
            f'[s.save("{folder}/" + n, C("2\\n")) for n in ("changed", "rewritten", "added")]'
        )
    finally:
        container.start()
    others = hosts_of("media")[:-1]
    assert wait(CATCH_UP_SECONDS, lambda: disk(lab, others[0], site, folder) == disk(lab, away, site, folder)), (
        disk(lab, others[0], site, folder),
        disk(lab, away, site, folder),
        container.exec_run("journalctl -n 20 -u media-sync").output.decode(),
    )
    found = {name: said.split()[-1] for name, said in disk(lab, away, site, folder).items()}
    assert found == {"./kept": "1", "./changed": "2", "./rewritten": "2", "./added": "2"}


def test_a_large_upload_takes_neither_memory_nor_disk_of_a_web_host(front, host, lab, sites, site):
    """100 MB, as a picture with much behind it, through the front door."""
    entry = next(entry for entry in sites if entry["name"] == site)
    session, url = test_site.editor(front, lab, entry), f"https://{entry['domains'][0]}/stories/add/"
    peaks = f"pids=$(pgrep -u {site} gunicorn); for p in $pids; do {{}}; done"
    for web in hosts_of("web"):
        host(web).check_output(peaks.format("echo 5 > /proc/$p/clear_refs"))
    before = {web: peak(host(web).check_output(peaks.format("grep VmHWM /proc/$p/status"))) for web in hosts_of("web")}
    mark = uuid.uuid4().hex
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', session.get(url, timeout=20).text)[1]
    answer = session.post(
        url,
        data={"headline": mark, "summary": "x", "body": "x", "author": "A test", "csrfmiddlewaretoken": token},
        files={"picture": (f"{mark}.png", io.BytesIO(picture(mark.encode()) + bytes(100_000_000)), "image/png")},
        headers={"Referer": url},
        timeout=60,
    )
    assert answer.status_code == 200 and mark in answer.text, f"{answer.status_code} {answer.text[:1000]}"
    for web in hosts_of("web"):
        after = peak(host(web).check_output(peaks.format("grep VmHWM /proc/$p/status")))
        print(f"{web}: {before[web]} kB, {after} kB with the upload")
        assert after < before[web] + 20_000, f"a worker of {web} has grown from {before[web]} to {after} kB"
        assert host(web).check_output(f"find /srv/{site}/tmp -size +1M") == ""


def peak(status: str) -> int:
    return max(int(line.split()[1]) for line in status.splitlines())
