from django.conf import settings
from django.utils import timezone


def site(request):
    """What every page's masthead and footer show."""
    return {
        "site_name": settings.SITE_NAME,
        "site_host": settings.SITE_HOST,
        "release": settings.RELEASE,
        "today": timezone.now(),
    }
