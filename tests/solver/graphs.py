"""Random Dockerfiles with contexts, and random edits of them, from a seed.

Whatever is made here is a function of what cache keys know: no step looks at a clock or a file's time.
"""

from __future__ import annotations

import io
import os
import random
import struct
import tarfile
from contextlib import suppress
from pathlib import Path

_FILES = ("a", "b", "dir/c", "dir/deep/d", "e")


class Graph:
    """A Dockerfile of several stages over a context in `root`; `edit` changes one of them."""

    def __init__(self, chance: random.Random, root: Path) -> None:
        self._chance = chance
        self.root = root
        self._fresh = 0
        self.args: list[str] = []
        root.mkdir()
        for name in _FILES:
            self._write(name)
        self.stages = [self._stage(number) for number in range(chance.randint(2, 4))]
        # The last stage needs the others, or most of them.
        self.stages[-1] += [
            f"COPY --from=s{number} /out /from{number}"
            for number in range(len(self.stages) - 1)
            if chance.random() < 0.9
        ]
        self.save()

    def save(self) -> None:
        """Write the Dockerfile; it is outside of what `COPY` takes."""
        self.text = "\n".join(line for stage in self.stages for line in stage) + "\n"
        (self.root / "Dockerfile").write_text(self.text)
        (self.root / ".dockerignore").write_text("Dockerfile\n.dockerignore\n")

    def edit(self) -> str:
        """Change something; what, for the message of a failure."""
        edits = (
            self._edit_file, self._touch, self._chmod, self._add_file, self._remove_file, self._link,
            self._edit_step, self._add_step, self._remove_step, self._edit_arg, self._keep_times, self._nothing,
            self._retarget, self._set_attribute, self._pack, self._empty_directory, self._move,
        )  # fmt: skip
        made = self._chance.choice(edits)
        made()
        self.save()
        return made.__name__

    def _stage(self, number: int) -> list[str]:
        base = (
            "busybox" if number == 0 or self._chance.random() < 0.5 else f"s{self._chance.randrange(number)}"
        )
        lines = [f"FROM {base} AS s{number}", "ARG WHO=world", "RUN mkdir -p /out"]
        return lines + [self._step(number) for _ in range(self._chance.randint(1, 4))]

    def _step(self, number: int) -> str:
        self._fresh += 1
        word, place = f"w{self._chance.randrange(4)}", f"/out/{self._chance.randrange(5)}"
        steps = [
            f"RUN echo {word} > {place}",
            f"RUN echo $WHO >> {place}",
            # The sum is written after all was read: it may be among the files.
            "RUN sum=$(cat $(find /out -type f | sort) | sha256sum) && echo $sum > /out/sum",
            f"RUN chmod 7{self._chance.randrange(8)}5 /out",
            "RUN rm -rf /out/dir",
            f"RUN --mount=type=bind,source=dir,target=/b cat /b/* > {place} 2>/dev/null || true",
            "COPY . /out/all/",
            "COPY dir /out/dir",
            "COPY dir /out/",
            f"COPY --chmod=640 [a-b] {place}d/",
            "COPY --chown=3:4 di[r] /out/owned/",
            f"ENV E={word}",
            f"LABEL l={word}",
            f"WORKDIR /out/work{self._chance.randrange(3)}",
            "USER 0",
            f"USER 1:{self._chance.randrange(3)}\nRUN mkdir -p /tmp/of && touch /tmp/of/{word}\nUSER 0",
            "COPY --link . /out/linked/",
            "COPY --link --chown=5 dir/ /out/dir/",
            "COPY --parents dir/./deep/* a* /out/parents/",
            "COPY --exclude=**/c . /out/some/",
            "ADD packed.ta[r] /out/unpacked/",
            f"COPY <<E {place}\n{word} $WHO\nE",
            f"RUN ln -sfn {place} /out/link && chown -h 7:8 /out/link",
            "RUN mv /out/all /out/moved 2>/dev/null || true",
            "RUN --mount=type=bind,source=.,target=/b find /b | sort > /out/list || true",
        ]
        if number:
            source = f"s{self._chance.randrange(number)}"
            steps += [
                f"COPY --from={source} /out /out/of-{source}/",
                f"COPY --from={source} --chmod=700 /out/[0-2] /out/chosen/",
                f"COPY --link --from={source} /out/ /out/merged/",
                f"RUN --mount=type=bind,from={source},source=/out,target=/b ls -R /b > {place} || true",
                f"RUN --mount=type=bind,from={source},source=/out,target=/b cp -a /b /out/taken || true",
            ]
        return self._chance.choice(steps)

    def _paths(self) -> list[Path]:
        hidden = ("Dockerfile", ".dockerignore")
        found = [path for path in self.root.rglob("*") if path.is_file() and path.name not in hidden]
        return sorted(found)

    def _write(self, name: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{self._chance.randrange(5)}\n" * self._chance.randint(1, 3))

    def _edit_file(self) -> None:
        self._write(str(self._chance.choice(self._paths()).relative_to(self.root)))

    def _keep_times(self) -> None:
        path = self._chance.choice(self._paths())
        status = path.stat()
        path.write_text(str(self._chance.randrange(10)) * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _touch(self) -> None:
        for path in self._chance.sample(self._paths(), 2):
            os.utime(path, (self._chance.randrange(10**9),) * 2)
        os.utime(self.root / "dir", (self._chance.randrange(10**9),) * 2)

    def _chmod(self) -> None:
        self._chance.choice([*self._paths(), self.root / "dir"]).chmod(
            self._chance.choice((0o755, 0o775, 0o777))
        )

    def _add_file(self) -> None:
        self._fresh += 1
        self._write(self._chance.choice(("", "dir/", "dir/deep/")) + f"n{self._fresh}")

    def _remove_file(self) -> None:
        kept = [self.root / name for name in ("a", "dir/c")]
        paths = [path for path in self._paths() if path not in kept]
        if len(paths) > 2:
            self._chance.choice(paths).unlink()

    def _link(self) -> None:
        """One file becomes a hard link, or a copy, or a symbolic link of another."""
        one, other = self.root / "a", self.root / "dir" / "linked"
        other.unlink(missing_ok=True)
        self._chance.choice((lambda: os.link(one, other), lambda: other.write_bytes(one.read_bytes())))()

    def _retarget(self) -> None:
        """A symbolic link points elsewhere, or to nothing."""
        link = self.root / "dir" / "pointer"
        link.unlink(missing_ok=True)
        link.symlink_to(self._chance.choice(("c", "../a", "missing", "deep")))

    def _set_attribute(self) -> None:
        """A file gets a capability, which only root may give (struct vfs_cap_data: revision 2, flag
        "effective", then the sets of which the permitted is not empty)."""
        capabilities = struct.pack("<5I", 0x0200_0001, 1 << self._chance.randrange(8), 0, 0, 0)
        with suppress(PermissionError):
            os.setxattr(self._chance.choice(self._paths()), "security.capability", capabilities)

    def _pack(self) -> None:
        """An archive with other content, of the same size as before."""
        with tarfile.open(self.root / "packed.tar", "w") as archive:
            content = f"{self._chance.randrange(10)}".encode()
            for name in self._chance.sample(("p", "q/r"), self._chance.randint(1, 2)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    def _empty_directory(self) -> None:
        path = self.root / "dir" / "empty"
        if path.is_dir():
            path.rmdir()
        else:
            path.mkdir()

    def _move(self) -> None:
        """A file goes to another name, or takes the place of another file."""
        first, second = self._chance.sample(self._paths(), 2)
        kept = [self.root / name for name in ("a", "dir/c")]
        if first not in kept:
            first.rename(second)

    def _edit_step(self) -> None:
        stage = self._chance.randrange(len(self.stages))
        place = self._place(stage)
        self.stages[stage][place] = self._step(stage)

    def _add_step(self) -> None:
        stage = self._chance.randrange(len(self.stages))
        self.stages[stage].insert(self._place(stage), self._step(stage))

    def _remove_step(self) -> None:
        stage = self._chance.randrange(len(self.stages))
        if len(self.stages[stage]) > 4:
            del self.stages[stage][self._place(stage)]

    def _edit_arg(self) -> None:
        self.args = ["--build-arg", f"WHO={self._chance.choice(('world', 'moon', 'sun'))}"]

    def _nothing(self) -> None:
        """An edit that is none."""

    def _place(self, stage: int) -> int:
        return self._chance.randrange(3, len(self.stages[stage]))
