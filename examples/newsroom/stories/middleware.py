from django.conf import settings


class ServedByMiddleware:
    """Says in a header which web host answered."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        response["X-Served-By"] = settings.SITE_HOST
        return response
