import json
from datetime import timedelta
from pathlib import Path

from django.core.management.base import BaseCommand
from django.db import transaction
from django.utils import timezone
from django.utils.text import slugify

from stories.models import Story
from stories.pictures import landscape

SEED = Path(__file__).resolve().parents[2] / "seed.json"


class Command(BaseCommand):
    help = "Fill an empty front page with a handful of stories; where there is a story already, do nothing."

    @transaction.atomic
    def handle(self, **options):
        if Story.objects.exists():
            self.stdout.write("There are stories already.")
            return
        now = timezone.now()
        stories = json.loads(SEED.read_text(encoding="utf-8"))
        for age, story in enumerate(stories):
            Story.objects.create(
                headline=story["headline"],
                summary=story["summary"],
                body="\n\n".join(story["body"]),
                author=story["author"],
                picture=landscape(slugify(story["headline"]), story["palette"]),
                published_at=now - timedelta(hours=7 * age),
            )
        self.stdout.write(f"Wrote {len(stories)} stories.")
