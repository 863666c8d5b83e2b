import os

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    help = "Make sure that the user 'editor' has EDITOR_PASSWORD as password and may add, change and delete stories."

    def handle(self, **options):
        password = os.environ.get("EDITOR_PASSWORD")
        if not password:
            raise CommandError("EDITOR_PASSWORD is not set.")
        user, created = get_user_model().objects.get_or_create(
            username="editor", defaults={"first_name": "Night", "last_name": "Desk", "is_staff": True}
        )
        # A password that is right stays as it is: setting it anew would log the editor out.
        if not user.check_password(password):
            user.set_password(password)
            user.save()
        user.user_permissions.add(
            *Permission.objects.filter(
                content_type__app_label="stories",
                codename__in=["add_story", "change_story", "delete_story", "view_story"],
            )
        )
        self.stdout.write("Created the editor." if created else "The editor is there.")
