from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Fill an empty front page with a handful of stories."

    def handle(self, **options):
        pass
