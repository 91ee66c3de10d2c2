"""What the cases build from: base images of this machine's own making, and a registry."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

from benchmarks.contestants import Arkwright, run


class Site:
    """A scratch directory, and bases as OCI archives by name."""

    def __init__(self, scratch: Path, bases: Path | None = None) -> None:
        self.scratch = scratch
        self.kept = bases or scratch / "bases"
        self.kept.mkdir(parents=True, exist_ok=True)
        maker = scratch / "maker"
        maker.mkdir()
        self.maker = Arkwright(maker)

    def base(self, name: str) -> Path:
        """The archive of a base that `arkwright bootstrap` makes: `busybox`, or `debian:bookworm`."""
        archive = self.kept / f"{name.replace(':', '-')}.tar"
        if not archive.exists():
            run([self.maker.program, "bootstrap", "--quiet", name], self.maker.env)
            partly = archive.with_suffix(".part")
            save = ["save", "--format", "oci-archive", "-o", str(partly), name]
            run([self.maker.program, *save], self.maker.env)
            partly.rename(archive)
        return archive

    def packages(self) -> Path:
        """Debian packages of a C compiler (`c`) and of Go (`go`), with all that they need."""
        place = self.kept / "packages"
        if not place.exists():
            run([self.maker.program, "load", "-i", str(self.base("debian:bookworm"))], self.maker.env)
            context = self.scratch / "fetch"
            context.mkdir()
            fetch = "apt-get install -y -qq --no-install-recommends --download-only"
            take = "mkdir -p /{0} && mv /var/cache/apt/archives/*.deb /{0}/"
            (context / "Dockerfile").write_text(
                "FROM debian:bookworm AS get\nRUN apt-get update -qq\n"
                f"RUN {fetch} gcc libc6-dev && {take.format('c')}\n"
                f"RUN {fetch} golang-go && {take.format('go')}\n"
                "FROM scratch\nCOPY --from=get /c /c\nCOPY --from=get /go /go\n"
            )
            partly = self.kept / "packages.part"
            build = ["build", "--network", "host", "-o", f"type=local,dest={partly}", str(context)]
            run([self.maker.program, *build], self.maker.env)
            partly.rename(place)
        return place


class Registry:
    """`docker-registry serve` on loopback, on a port that the system gives. A context manager.

    Raises RuntimeError when it does not start.
    """

    def __init__(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        config = {
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(path / "data")}},
            "http": {"addr": "127.0.0.1:0", "secret": "benchmark"},
        }
        # JSON is YAML.
        (path / "config.yml").write_text(json.dumps(config))
        self.path = path
        self.host = ""

    def __enter__(self) -> Registry:
        self.process = subprocess.Popen(
            ["docker-registry", "serve", str(self.path / "config.yml")],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={"OTEL_TRACES_EXPORTER": "none"},
        )  # fmt: skip
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(rb"listening on (127\.0\.0\.1:\d+)", line):
                self.host = found[1].decode()
                break
        if not self.host:
            self.__exit__()
            raise RuntimeError("docker-registry did not start")
        self.drain = threading.Thread(target=self.process.stderr.read, daemon=True)
        self.drain.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.path, ignore_errors=True)
