from django.contrib import admin

from .models import Story


@admin.register(Story)
class StoryAdmin(admin.ModelAdmin):
    list_display = ("headline", "author", "published_at")
    search_fields = ("headline", "summary", "body")
    date_hierarchy = "published_at"

    def delete_queryset(self, request, queryset):
        for story in queryset:
            story.delete()
