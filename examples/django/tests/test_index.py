from django.test import TestCase, override_settings

from guestbook.models import Entry


@override_settings(STORAGES={"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}})
class IndexTest(TestCase):
    def test_an_empty_book(self) -> None:
        self.assertContains(self.client.get("/"), "Nobody was here.")

    def test_entries_are_escaped(self) -> None:
        Entry.objects.create(name="Eve", text="<script>")
        self.assertContains(self.client.get("/"), "<p>Eve: &lt;script&gt;</p>", html=False)

    def test_the_query_is_one(self) -> None:
        with self.assertNumQueries(1):
            self.client.get("/")
