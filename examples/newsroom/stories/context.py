from django.conf import settings
from django.utils import timezone


def newsroom(request):
    """What every page's masthead and footer show."""
    return {
        "newsroom": {
            "name": settings.SITE_NAME,
            "host": settings.SITE_HOST,
            "release": settings.RELEASE,
            "today": timezone.now(),
        }
    }
