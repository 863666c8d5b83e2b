from django.conf import settings
from django.conf.urls.static import static
from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path
from django.views.generic import TemplateView
from stories import views

urlpatterns = [
    path("", views.FrontView.as_view(), name="front"),
    path("stories/add/", views.StoryAddView.as_view(), name="story-add"),
    path("stories/<slug:slug>/", views.StoryView.as_view(), name="story"),
    path("stories/<slug:slug>/edit/", views.StoryEditView.as_view(), name="story-edit"),
    path("about/", TemplateView.as_view(template_name="stories/about.html"), name="about"),
    path("login/", LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    *static(settings.MEDIA_URL, document_root=settings.MEDIA_ROOT),
]
