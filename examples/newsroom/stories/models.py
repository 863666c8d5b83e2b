import secrets
from pathlib import PurePath

from django.core.validators import FileExtensionValidator
from django.db import models, transaction
from django.urls import reverse
from django.utils import timezone
from django.utils.text import slugify

from . import front


def picture_name(story: "Story", filename: str) -> str:
    """A name no other upload has, on whichever host it arrives, so that a picture may be cached for ever."""
    return f"stories/{story.slug[:80]}-{secrets.token_hex(4)}{PurePath(filename).suffix.lower()}"


class Story(models.Model):
    headline = models.CharField(max_length=120)
    slug = models.SlugField(max_length=140, unique=True, editable=False)
    summary = models.CharField(max_length=300)
    body = models.TextField(help_text="An empty line starts a new paragraph.")
    picture = models.ImageField(
        upload_to=picture_name,
        max_length=200,
        validators=[FileExtensionValidator(["jpg", "jpeg", "png", "webp"])],
    )
    author = models.CharField(max_length=100)
    published_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        ordering = ("-published_at", "-pk")
        verbose_name_plural = "stories"

    def __str__(self):
        return self.headline

    def get_absolute_url(self):
        return reverse("story", args=[self.slug])

    def save(self, *args, **kwargs):
        if not self.slug:
            self.slug = slugify(self.headline) or "story"
            if self.slug == "add" or Story.objects.filter(slug=self.slug).exists():
                self.slug += f"-{secrets.token_hex(4)}"
        super().save(*args, **kwargs)
        transaction.on_commit(front.forget)

    def delete(self, *args, **kwargs):
        deleted = super().delete(*args, **kwargs)
        transaction.on_commit(front.forget)
        return deleted
