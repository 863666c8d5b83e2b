"""The releases that a drill deploys: a git repository made of an example, with good versions and bad ones as tags."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

import yaml

from lab.demo import sites_of

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/newsroom"
SITE = "newsroom"
# Twice what a worker of the site needs, and less than that and what a bad release keeps.
MEMORY_LIMIT = "140m"

# What the drill adds to the site: pages that take their time, as a report or a slow query would.
SLOW_PAGES = '''"""The site's addresses, and slow pages."""

import time

from django.http import HttpResponse
from django.urls import path

from newsroom.urls import urlpatterns as of_the_site


def slow(request, seconds):
    time.sleep(min(seconds, 10))
    return HttpResponse("<p>Here it is.</p>")


urlpatterns = [path("drill/slow/<int:seconds>/", slow), *of_the_site]
'''

# A middleware that behaves until a second after its process was asked for the first time.
TURNS_BAD = '''"""What is wrong with this release begins when it has been ready for a moment."""

import time

BEGAN, KEPT = [], []


def bad():
    {act}


class TurnsBad:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        if not BEGAN:
            BEGAN.append(time.monotonic())
        if time.monotonic() > BEGAN[0] + 1:
            bad()
        return self.get_response(request)
'''
MIDDLEWARE = '\nMIDDLEWARE = ["newsroom.bad.TurnsBad", *MIDDLEWARE]\n'

# PostgreSQL forgets the default once the column is there, and the release that still runs does not fill it.
UNSAFE_MIGRATION = """from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("stories", "0001_initial")]
    operations = [migrations.AddField("story", "edition", models.IntegerField(default=1))]
"""


@dataclass(frozen=True)
class Edit:
    """A change of one file: the new text takes the place of the old, or without one comes at the end."""

    path: str
    new: str
    old: str = ""


def turns_bad(act: str) -> list[Edit]:
    return [Edit("newsroom/bad.py", TURNS_BAD.format(act=act)), Edit("newsroom/settings.py", MIDDLEWARE)]


def at_start(line: str) -> list[Edit]:
    """What happens when gunicorn loads the application, and not where the build's checks do."""
    return [
        Edit(
            "newsroom/wsgi.py", f'import os\n\nif "TRESTLE_SERVES_REQUESTS" in os.environ:\n    {line}\n', "import os\n"
        )
    ]


AUTHOR = "    author = models.CharField(max_length=100)\n"


@dataclass(frozen=True)
class Bad:
    """A way for a release to be bad: what is changed, and what a run must say of it, since another reason is not that
    one. Of those that are found while a release is built, checked or prepared no host hears."""

    edits: list[Edit]
    says: str
    at_build: bool = False


BAD = {
    "import error": Bad(at_start("import a_module_that_nobody_wrote"), "does not start"),
    "never ready": Bad(at_start("__import__('time').sleep(3600)"), "does not answer|is not ready"),
    "ready, then 500s": Bad(
        turns_bad('raise RuntimeError("this release is bad")'), "requests with an error|answers with status 500"
    ),
    "workers killed for memory": Bad(
        turns_bad('KEPT or KEPT.append(b"x" * (100 * 2**20))'), "grows past a memory limit|has lost a worker"
    ),
    "hangs": Bad(
        turns_bad("time.sleep(600)"),
        "gives no answer|does not answer|has lost a worker|requests with an error",
    ),
    "missing wheel": Bad(
        [Edit("requirements.txt", "a-package-that-nobody-wrote==1.0\n")], "No matching distribution", at_build=True
    ),
    "unsafe migration": Bad(
        [
            Edit("stories/models.py", f"{AUTHOR}    edition = models.IntegerField(default=1)\n", AUTHOR),
            Edit("stories/migrations/0002_story_edition.py", UNSAFE_MIGRATION),
        ],
        "is refused",
        at_build=True,
    ),
    "broken settings": Bad(
        [Edit("newsroom/settings.py", '\nMAIL_GATEWAY = env("MAIL_GATEWAY")\n')], "does not import", at_build=True
    ),
}


def slug(name: str) -> str:
    return "bad-" + re.sub(r"\W+", "-", name)


class Versions:
    """The repository. ``good(3)`` and ``bad("hangs")`` are tags of it, made where they are not there yet."""

    def __init__(self, folder: Path):
        self.folder = folder
        if not (folder / ".git").is_dir():
            self.begin()

    def git(self, *arguments: str) -> str:
        who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in WHO.items()}
        command = ["git", "-c", "commit.gpgsign=false", "-C", str(self.folder), *arguments]
        return subprocess.run(command, env=os.environ | who, check=True, capture_output=True, text=True).stdout.strip()

    def begin(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "db.sqlite3", "uploads")
        shutil.copytree(EXAMPLE, self.folder, ignore=ignored)
        self.git("init", "--quiet", "--initial-branch=main")
        self.write(Edit("newsroom/drill.py", SLOW_PAGES))
        self.write(Edit("newsroom/settings.py", '\nROOT_URLCONF = "newsroom.drill"\n'))
        # What an earlier drill has had built in this lab would be new no more.
        self.write(Edit("drill.txt", f"{uuid.uuid4()}\n"))
        self.commit("The example, and slow pages")
        self.git("tag", "begin")

    def write(self, edit: Edit) -> None:
        path = self.folder / edit.path
        before = path.read_text() if path.exists() else ""
        if edit.old and before.count(edit.old) != 1:
            raise ValueError(f"{edit.path} has {edit.old!r} {before.count(edit.old)} times, where once is wanted")
        path.write_text(before.replace(edit.old, edit.new) if edit.old else before + edit.new)

    def commit(self, text: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", text)

    def make(self, tag: str, text: str, edits: list[Edit]) -> str:
        """A version of its own; what tells it from others is also in a page and in a file with a hashed name."""
        if tag not in self.git("tag").split():
            self.git("checkout", "--quiet", "--force", "--detach", "begin")
            self.git("clean", "--quiet", "--force", "-d")
            self.write(Edit("stories/static/stories/newsroom.css", f"/* {tag} */\n"))
            self.write(Edit("stories/templates/stories/about.html", f"{{# {tag} #}}\n"))
            for edit in edits:
                self.write(edit)
            self.commit(text)
            self.git("tag", tag)
        return tag

    def good(self, number: int) -> str:
        return self.make(f"v{number}", f"Version {number}", [])

    def bad(self, name: str) -> str:
        return self.make(slug(name), f"Bad: {name}", BAD[name].edits)

    def sites(self, env_name: str) -> dict:
        """The environment's sites, one of them from this repository; which version is for each run to say."""
        sites = sites_of(env_name)
        programs = [dict(program) for program in sites[SITE].get("programs", [{"name": "gunicorn"}])]
        for program in programs:
            if program["name"] == "gunicorn":
                program["memory_limit"] = MEMORY_LIMIT
        source = {"git": str(self.folder), "version": "begin"}
        return sites | {SITE: sites[SITE] | {"source": source, "programs": programs}}

    def write_sites(self, env_name: str, folder: Path) -> Path:
        """Extra variables for the drill's runs."""
        path = folder / "sites.yml"
        path.write_text(yaml.safe_dump({"sites": self.sites(env_name)}, sort_keys=False))
        return path


WHO = {"NAME": "The drill", "EMAIL": "drill@example.com"}
