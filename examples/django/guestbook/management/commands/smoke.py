"""`manage.py smoke`: the site with a database of its own in memory, asked by Django's own client."""

import re
from typing import Any

from django.core.management import BaseCommand, call_command
from django.test import Client

from guestbook.models import Entry


class Command(BaseCommand):
    help = "Ask the site for a page and its style sheet. Needs GUESTBOOK_DB=:memory:."

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", verbosity=0)
        Entry.objects.create(name="Ada", text="<b>hello</b>")
        client = Client(SERVER_NAME="localhost")
        page = client.get("/")
        text = page.content.decode()
        self.stdout.write(f"page {page.status_code}: {re.findall('<p>(.*)</p>', text)[0]}")
        style = client.get(re.findall('href="(.*)"', text)[0])
        self.stdout.write(f"style {style.status_code}: {style.headers['Content-Type']}")
