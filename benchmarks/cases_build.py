"""Cases of the build itself: what is cached, changed, run, and copied between stages."""

from __future__ import annotations

import shutil

from benchmarks.case import MIB, Case, edit
from benchmarks.contestants import Contestant
from benchmarks.measure import Work
from benchmarks.site import Site
from benchmarks.trees import context, fill

SEVEN = """\
FROM busybox
WORKDIR /app
COPY lib lib
RUN ls -R lib > manifest.txt
COPY src src
ENV MODE=production
CMD ["cat", "manifest.txt"]
"""


class Noop(Case):
    group = "noop"

    def __init__(self, site: Site, scale: float, files: int = 200) -> None:
        super().__init__(site, scale)
        self.files = max(4, self.of(files))
        self.id = "noop" if files == 200 else f"noop-{files}"
        self.text = f"a fully cached rebuild: 7 instructions, {self.files} small files"

    def sizes(self) -> dict[str, int]:
        return {"files": self.files}

    def setup(self) -> None:
        context(self.context, SEVEN)
        half = self.files // 2
        fill(self.context / "lib", half, half * 2000, "lib")
        fill(self.context / "src", half, half * 2000, "src")

    def start(self, one: Contestant) -> Work | None:
        return self.work(one, "")

    def work(self, one: Contestant, token: str) -> Work | None:
        return Work([one.build(self.context, "result")])


class Edit(Noop):
    group = "edit"

    def __init__(self, site: Site, scale: float) -> None:
        super().__init__(site, scale)
        self.id = "edit"
        self.text = f"one of {self.files} files changed: one COPY runs again, the image is written"

    def before(self, one: Contestant, token: str) -> None:
        edit(self.context, "src/d0000/f000000", token)


class Steps(Case):
    group = id = "steps"

    def __init__(self, site: Site, scale: float) -> None:
        super().__init__(site, scale)
        self.steps = self.of(10)
        self.text = f"{self.steps} uncached RUN true"

    def sizes(self) -> dict[str, int]:
        return {"steps": self.steps}

    def setup(self) -> None:
        context(self.context, "FROM busybox\nARG TURN\n" + "RUN true\n" * self.steps)

    def start(self, one: Contestant) -> Work | None:
        return self.work(one, "first")

    def work(self, one: Contestant, token: str) -> Work | None:
        return Work([one.build(self.context, "result", ["--build-arg", f"TURN={token}"])])


class Fan(Steps):
    group = id = "fan"

    def __init__(self, site: Site, scale: float) -> None:
        Case.__init__(self, site, scale)
        self.text = f"four stages that each sleep {scale:g} s, then four COPY --from"

    def sizes(self) -> dict[str, int]:
        return {"stages": 4, "sleep_ms": self.of(1000)}

    def setup(self) -> None:
        names = "abcd"
        lines = ["ARG TURN"]
        for name in names:
            lines += [
                f"FROM busybox AS {name}",
                "ARG TURN",
                f"RUN sleep {self.scale:g} && echo $TURN > /{name}",
            ]
        context(
            self.context, "\n".join([*lines, "FROM busybox", *(f"COPY --from={n} /{n} /" for n in names), ""])
        )

    def work(self, one: Contestant, token: str) -> Work | None:
        return Work([one.build(self.context, "result", ["--build-arg", f"TURN={token}"], stages=4)])


class Dag13(Steps):
    """Six leaves, four stages that each take from three leaves, three that take from two of the four;
    every stage first does work of its own, so all thirteen can begin at once."""

    group = id = "dag13"

    def __init__(self, site: Site, scale: float) -> None:
        Case.__init__(self, site, scale)
        self.rounds = self.of(20000)
        self.text = "thirteen stages at once with copies across, each computing and sleeping"

    def sizes(self) -> dict[str, int]:
        return {"stages": 13, "rounds": self.rounds, "sleep_ms": self.of(200)}

    def setup(self) -> None:
        takes = {number: [(number + add) % 6 for add in range(3)] for number in range(6, 10)}
        takes |= {number: [6 + (number + add) % 4 for add in range(2)] for number in range(10, 13)}
        work = (
            f"i=0; while [ $i -lt {self.rounds} ]; do i=$((i+1)); done; sleep {0.2 * self.scale:g}; "
            "mkdir /out; echo $TURN > /out"
        )
        lines = ["ARG TURN"]
        for number in range(13):
            lines += [f"FROM busybox AS s{number}", "ARG TURN", f"RUN {work}/s{number}"]
            if number in takes:
                lines += [f"COPY --from=s{taken} /out /out" for taken in takes[number]]
                lines.append(f"RUN cat /out/* > /out/all{number}")
        lines += ["FROM busybox", *(f"COPY --from=s{number} /out /out" for number in range(10, 13)), ""]
        context(self.context, "\n".join(lines))

    def work(self, one: Contestant, token: str) -> Work | None:
        return Work([one.build(self.context, "result", ["--build-arg", f"TURN={token}"], stages=13)])


LANGUAGES = """\
FROM debian:bookworm AS shared
RUN mkdir /out /src && echo shared > /etc/prefix

FROM shared AS c
RUN --mount=type=bind,source=packages/c,target=/packages dpkg -i /packages/*.deb
COPY c /src
RUN gcc -O2 -o /out/from-c /src/main.c

FROM shared AS go
RUN --mount=type=bind,source=packages/go,target=/packages dpkg -i /packages/*.deb
COPY go /src
RUN cd /src && CGO_ENABLED=0 GOCACHE=/tmp/go-build HOME=/tmp go build -o /out/from-go main.go

FROM shared
COPY --from=c /out/from-c /usr/local/bin/
COPY --from=go /out/from-go /usr/local/bin/
"""
C_SOURCE = '#include <stdio.h>\nint main(void) { puts("hello from C"); return 0; }\n'
GO_SOURCE = 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("hello from Go") }\n'


class TwoLanguages(Case):
    """Packages come from the context: a build that asks the network measures the network."""

    group = "two-languages"
    bases = ("debian:bookworm",)
    needed_bytes = 6000 * MIB

    def __init__(self, site: Site, scale: float, again: bool = False) -> None:
        super().__init__(site, scale)
        self.again = again
        self.id = "two-languages-again" if again else "two-languages"
        self.text = "stages C and Go install a compiler and compile; "
        self.text += "again, after a comment changed" if again else "cold"
        self.most_turns = 1000 if again else 3

    def setup(self) -> None:
        context(self.context, LANGUAGES)
        shutil.copytree(self.site.packages(), self.context / "packages")
        for name, source in (("c/main.c", C_SOURCE), ("go/main.go", GO_SOURCE)):
            (self.context / name).parent.mkdir()
            (self.context / name).write_text(source)

    def start(self, one: Contestant) -> Work | None:
        return Work([one.build(self.context, "result", stages=2)]) if self.again else None

    def before(self, one: Contestant, token: str) -> None:
        if self.again:
            (self.context / "c/main.c").write_text(C_SOURCE + f"/* {token} */\n")
        else:
            one.fresh(self.archives())

    def work(self, one: Contestant, token: str) -> Work | None:
        return Work([one.build(self.context, "result", stages=2)])


class Crowd(Case):
    group = id = "crowd"

    def __init__(self, site: Site, scale: float) -> None:
        super().__init__(site, scale)
        self.builds, self.files = 8, max(4, self.of(200))
        self.text = f"eight builds at once on one store, each with a COPY of {self.files} files and three RUN"

    def sizes(self) -> dict[str, int]:
        return {"builds": self.builds, "files": self.files}

    def setup(self) -> None:
        for number in range(self.builds):
            at = context(
                self.context / str(number),
                "FROM busybox\nARG TURN\nCOPY files /files\n" + "RUN echo $TURN >> /log\n" * 3,
            )
            fill(at / "files", self.files, self.files * 2000, str(number))

    def start(self, one: Contestant) -> Work | None:
        return self.work(one, "first")

    def work(self, one: Contestant, token: str) -> Work | None:
        return Work(
            [
                one.build(
                    self.context / str(number), f"result{number}", ["--build-arg", f"TURN={token}{number}"]
                )
                for number in range(self.builds)
            ],
            parallel=True,
        )
