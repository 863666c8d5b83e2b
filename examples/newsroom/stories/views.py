from django.contrib.auth.mixins import PermissionRequiredMixin
from django.core.cache import cache
from django.core.paginator import Paginator
from django.http import Http404
from django.template.loader import render_to_string
from django.views.generic import CreateView, DetailView, TemplateView, UpdateView

from . import front
from .models import Story

PAGE_SIZE = 9


class FrontView(TemplateView):
    """The newest stories. X-Cache says whether the list came from the cache."""

    template_name = "stories/front.html"

    def get(self, request, *args, **kwargs):
        number = request.GET.get("page", "1")
        if not number.isdecimal() or len(number) > 6:
            raise Http404("No such page.")
        number = int(number)
        key = front.key(number)
        stories = cache.get(key)
        found = stories is not None
        if not found:
            stories = self.render_stories(number)
            cache.set(key, stories, front.SECONDS)
        return self.render_to_response(
            {"stories": stories, "number": number}, headers={"X-Cache": "hit" if found else "miss"}
        )

    def render_stories(self, number: int) -> str:
        pages = Paginator(Story.objects.all(), PAGE_SIZE)
        if number not in pages.page_range:
            raise Http404("No such page.")
        return render_to_string("stories/_list.html", {"page": pages.page(number)})


class StoryView(DetailView):
    """Never cached: a story is read from the primary straight after it was posted."""

    model = Story


class StoryFormView(PermissionRequiredMixin):
    model = Story
    fields = ("headline", "summary", "body", "picture", "author")


class StoryAddView(StoryFormView, CreateView):
    permission_required = "stories.add_story"

    def get_initial(self):
        return {"author": self.request.user.get_full_name() or self.request.user.get_username()}


class StoryEditView(StoryFormView, UpdateView):
    permission_required = "stories.change_story"
