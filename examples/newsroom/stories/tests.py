import os
import subprocess
import sys
import tempfile
from io import BytesIO, StringIO
from unittest import mock

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import TestCase, override_settings
from django.urls import reverse
from PIL import Image

from . import front
from .models import Story
from .pictures import landscape
from .views import PAGE_SIZE


def picture(name="small.png") -> SimpleUploadedFile:
    buffer = BytesIO()
    Image.new("RGB", (16, 9), "navy").save(buffer, "PNG")
    return SimpleUploadedFile(name, buffer.getvalue(), "image/png")


def ensure_editor(password="first edition"):
    with mock.patch.dict(os.environ, EDITOR_PASSWORD=password):
        call_command("ensure_editor", stdout=StringIO())
    return get_user_model().objects.get(username="editor")


class NewsroomTestCase(TestCase):
    """Uploads go to a folder of their own, and every test starts with an empty cache."""

    def setUp(self):
        uploads = tempfile.TemporaryDirectory()
        self.addCleanup(uploads.cleanup)
        self.enterContext(override_settings(MEDIA_ROOT=uploads.name))
        cache.clear()

    def write(self, headline="A headline", **fields) -> Story:
        values = {"summary": "A summary.", "body": "One.\n\nTwo.", "author": "A. Writer", "picture": picture()}
        with self.captureOnCommitCallbacks(execute=True):
            return Story.objects.create(headline=headline, **values | fields)

    def post(self, **fields):
        form = {"headline": "Posted", "summary": "S", "body": "B", "author": "A", "picture": picture()}
        with self.captureOnCommitCallbacks(execute=True):
            return self.client.post(reverse("story-add"), form | fields)


class ReadingTest(NewsroomTestCase):
    def test_an_empty_front_page_says_so(self):
        self.assertContains(self.client.get("/"), "No story has been written yet")

    def test_the_front_page_lists_the_newest_first_and_the_rest_on_the_next_page(self):
        for number in range(PAGE_SIZE + 1):
            self.write(f"Story {number:02}")
        first, second = self.client.get("/"), self.client.get("/?page=2")
        self.assertContains(first, f"Story {PAGE_SIZE:02}")
        self.assertNotContains(first, "Story 00")
        self.assertContains(second, "Story 00")

    def test_a_page_that_is_none_is_not_found(self):
        for page in ("0", "2", "x", "9" * 40):
            self.assertEqual(self.client.get("/", {"page": page}).status_code, 404, page)

    def test_a_story_shows_its_text_escaped_and_its_picture(self):
        story = self.write("Fish & <b>chips</b>")
        response = self.client.get(story.get_absolute_url())
        self.assertContains(response, "Fish &amp; &lt;b&gt;chips&lt;/b&gt;")
        self.assertContains(response, story.picture.url)
        self.assertContains(response, "<p>Two.</p>", html=True)
        self.assertContains(self.client.get("/"), "Fish &amp; &lt;b&gt;chips&lt;/b&gt;")

    def test_a_story_that_is_none_is_not_found(self):
        self.assertContains(self.client.get("/stories/nothing/"), "no such page", status_code=404)

    def test_the_name_of_the_paper_is_on_the_login_page_too(self):
        with override_settings(SITE_NAME="The Gazette"):
            for page in ("/", "/about/", "/login/"):
                self.assertContains(self.client.get(page), "The Gazette")

    def test_the_footer_and_a_header_say_who_answered(self):
        with override_settings(SITE_HOST="web7", RELEASE="abc123"):
            response = self.client.get("/about/")
        self.assertContains(response, '<b id="served-by">web7</b>', html=True)
        self.assertContains(response, '<b id="release">abc123</b>', html=True)
        self.assertEqual(response["X-Served-By"], "web7")


class CacheTest(NewsroomTestCase):
    def test_the_second_reader_gets_the_list_from_the_cache(self):
        self.write("Cached")
        self.assertEqual(self.client.get("/")["X-Cache"], "miss")
        with self.assertNumQueries(0):
            response = self.client.get("/")
        self.assertEqual(response["X-Cache"], "hit")
        self.assertContains(response, "Cached")

    def test_the_footer_is_never_cached(self):
        with override_settings(SITE_HOST="web1"):
            self.client.get("/")
        with override_settings(SITE_HOST="web2"):
            response = self.client.get("/")
        self.assertEqual((response["X-Cache"], response["X-Served-By"]), ("hit", "web2"))
        self.assertContains(response, '<b id="served-by">web2</b>', html=True)

    def test_every_change_starts_a_new_edition(self):
        story = self.write("Before")
        self.client.get("/")
        story.headline = "After"
        with self.captureOnCommitCallbacks(execute=True):
            story.save()
        response = self.client.get("/")
        self.assertEqual(response["X-Cache"], "miss")
        self.assertContains(response, "After")
        with self.captureOnCommitCallbacks(execute=True):
            story.delete()
        self.assertNotContains(self.client.get("/"), "After")

    def test_a_list_read_before_a_change_is_not_stored_over_it(self):
        key = front.key(1)
        self.write("Fresh")
        cache.set(key, "an old list", front.SECONDS)
        self.assertContains(self.client.get("/"), "Fresh")


class WritingTest(NewsroomTestCase):
    def test_a_stranger_is_asked_to_log_in(self):
        self.assertRedirects(self.client.get(reverse("story-add")), "/login/?next=/stories/add/")
        self.assertEqual(self.post().status_code, 302)
        self.assertFalse(Story.objects.exists())

    def test_who_has_no_permission_may_not_write(self):
        self.client.force_login(get_user_model().objects.create_user("reader"))
        self.assertEqual(self.post().status_code, 403)
        self.assertNotContains(self.client.get("/"), "Write a story")

    def test_an_editor_logs_in_writes_reads_edits_and_logs_out(self):
        ensure_editor("first edition")
        response = self.client.post("/login/", {"username": "editor", "password": "first edition"})
        self.assertRedirects(response, "/")
        self.client.get("/")
        response = self.post(headline="Add")
        story = Story.objects.get()
        self.assertRedirects(response, story.get_absolute_url())
        self.assertNotEqual(story.slug, "add")
        self.assertContains(self.client.get("/"), story.get_absolute_url())
        with story.picture.open() as stored:
            self.assertEqual(stored.read(), picture().read())
        edit = {"headline": "Corrected", "summary": "S", "body": "B", "author": "A"}
        self.assertRedirects(self.client.post(reverse("story-edit", args=[story.slug]), edit), story.get_absolute_url())
        self.assertContains(self.client.get(story.get_absolute_url()), "Corrected")
        self.assertRedirects(self.client.post("/logout/"), "/")
        self.assertContains(self.client.get("/"), "Log in")

    def test_what_is_no_picture_is_refused(self):
        self.client.force_login(ensure_editor())
        page = SimpleUploadedFile("page.html", b"<script>alert(1)</script>", "text/html")
        for upload in (page, picture("small.tiff"), SimpleUploadedFile("small.png", b"not a picture")):
            self.assertEqual(self.post(picture=upload).status_code, 200, upload.name)
        self.assertFalse(Story.objects.exists())

    def test_two_stories_of_one_headline_have_addresses_and_pictures_of_their_own(self):
        first, second = self.write("Same"), self.write("Same")
        self.assertNotEqual(first.slug, second.slug)
        self.assertNotEqual(first.picture.name, second.picture.name)

    def test_a_headline_in_another_script_has_an_address(self):
        self.assertEqual(self.client.get(self.write("新聞").get_absolute_url()).status_code, 200)


class CommandTest(NewsroomTestCase):
    def test_ensure_editor_follows_the_password_and_touches_nothing_when_it_is_right(self):
        before = ensure_editor("one").password
        self.assertEqual(ensure_editor("one").password, before)
        editor = ensure_editor("two")
        self.assertTrue(editor.check_password("two"))
        self.assertTrue(editor.has_perms(["stories.add_story", "stories.change_story", "stories.delete_story"]))

    def test_ensure_editor_wants_a_password(self):
        with self.assertRaisesMessage(CommandError, "EDITOR_PASSWORD"), mock.patch.dict(os.environ):
            os.environ.pop("EDITOR_PASSWORD", None)
            call_command("ensure_editor")

    def test_seed_stories_fills_an_empty_paper_once(self):
        with mock.patch("stories.management.commands.seed_stories.landscape", lambda *_: picture()):
            call_command("seed_stories", stdout=StringIO())
            seeded = Story.objects.count()
            call_command("seed_stories", stdout=StringIO())
        self.assertGreater(seeded, 4)
        self.assertEqual(Story.objects.count(), seeded)

    def test_a_landscape_is_a_picture_and_always_the_same(self):
        palette = ["000000", "ffffff", "224466"]
        first, second = (landscape("hills", palette).read() for _ in range(2))
        self.assertEqual(first, second)
        self.assertEqual(Image.open(BytesIO(first)).size, (1200, 675))


class ProductionTest(TestCase):
    """The settings as a deployment has them: read in a process of their own, from its environment."""

    def run_with(self, *command, **environment):
        base = {"PATH": os.environ["PATH"], "DEBUG": "false", "DJANGO_SETTINGS_MODULE": "newsroom.settings"}
        return subprocess.run(
            [sys.executable, "-m", "django", *command],
            env=base | environment,
            cwd=settings.BASE_DIR,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def test_it_does_not_start_without_a_secret_key(self):
        run = self.run_with("check")
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("SECRET_KEY", run.stderr)

    def test_django_has_nothing_against_the_deployment_and_every_static_file_is_there(self):
        with tempfile.TemporaryDirectory() as folder:
            environment = {
                "SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
                "ALLOWED_HOSTS": "newsroom.example.com",
                "DATABASE_URL": "postgres://newsroom:p%40ss@127.0.0.1:5432/newsroom",
                "CACHE_URL": "pymemcache://cache1:11211,cache2:11211",
                "STATIC_ROOT": folder,
            }
            check = self.run_with("check", "--deploy", "--fail-level", "WARNING", **environment)
            self.assertEqual(check.returncode, 0, check.stderr)
            collect = self.run_with("collectstatic", "--no-input", **environment)
            self.assertEqual(collect.returncode, 0, collect.stderr)
            read = "from django.conf import settings as s; print(s.DATABASES, s.CACHES)"
            shown = self.run_with("shell", "-v", "0", "-c", read, **environment).stdout
        for part in ("postgresql", "'PASSWORD': 'p@ss'", "connect_timeout", "['cache1:11211', 'cache2:11211']"):
            self.assertIn(part, shown)
