from django.urls import path

from guestbook.views import index

urlpatterns = [path("", index)]
