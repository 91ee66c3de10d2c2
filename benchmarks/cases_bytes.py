"""Cases of many files and many bytes: layers, registries, large contexts."""

from __future__ import annotations

from benchmarks.case import MIB, Case, edit
from benchmarks.contestants import Contestant, run
from benchmarks.measure import Work
from benchmarks.site import Registry, Site
from benchmarks.trees import context, fill


class Layer(Case):
    """One file of the layer changes each turn, so all of it is copied, packed and compressed again."""

    def __init__(self, site: Site, scale: float, kind: str, codec: str) -> None:
        super().__init__(site, scale)
        files, size = {"big": (20, 1000), "many": (10_000, 200)}[kind]
        self.codec, self.files, self.bytes = codec, self.of(files), self.of(size * MIB)
        self.id = f"layer-{kind}-{codec}"
        self.text = f"COPY and export {size * scale:g} MiB in {self.files} files as an OCI archive, {codec}"
        self.most_turns = 3 if kind == "big" else 1000
        self.needed_bytes = 10 * self.bytes

    def sizes(self) -> dict[str, int]:
        return {"files": self.files, "bytes": self.bytes}

    def setup(self) -> None:
        context(self.context, "FROM busybox\nCOPY files /files\n")
        fill(self.context / "files", self.files, self.bytes, self.id)
        edit(self.context, "files/turn", "first")

    def before(self, one: Contestant, token: str) -> None:
        edit(self.context, "files/turn", token)

    def work(self, one: Contestant, token: str) -> Work | None:
        archive = self.path / f"{one.name}.tar"
        archive.unlink(missing_ok=True)
        return one.export(self.context, "result", archive, self.codec)

    def after(self, one: Contestant) -> None:
        (self.path / f"{one.name}.tar").unlink(missing_ok=True)
        one.prune()


class LayerBig(Layer):
    group = "layer-big"


class LayerMany(Layer):
    group = "layer-many"


class Registries(Case):
    """An image of four layers at a registry on loopback."""

    needs = ("docker-registry",)
    most_turns = 5

    def __init__(self, site: Site, scale: float) -> None:
        super().__init__(site, scale)
        self.files, self.bytes = max(4, self.of(4000)), self.of(500 * MIB)
        self.needed_bytes = 12 * self.bytes

    def sizes(self) -> dict[str, int]:
        return {"files": self.files, "bytes": self.bytes, "layers": 4}

    def setup(self) -> None:
        names = "abcd"
        context(self.context, "FROM busybox\n" + "".join(f"COPY {name} /{name}\n" for name in names))
        for name in names:
            fill(self.context / name, self.files // 4, self.bytes // 4, name)


class Pull(Registries):
    """The base of a build is fetched and unpacked, and a step runs in it: this is when its tree is ready
    with every builder, those that unpack late too."""

    group = id = "pull"

    def __init__(self, site: Site, scale: float) -> None:
        super().__init__(site, scale)
        self.text = (
            f"an image of {self.bytes // MIB} MiB from a loopback registry to a tree, and one step in it"
        )

    def setup(self) -> None:
        super().setup()
        self.registry = Registry(self.site.scratch / "registry").__enter__()
        maker = self.site.maker
        image = f"{self.registry.host}/big:latest"
        maker.fresh({"busybox": self.site.base("busybox")})
        run(maker.build(self.context, "big"), maker.env)
        run([maker.program, "push", "big", image], maker.env)
        self.child = context(self.path / "child", f"FROM {image}\nRUN true\n")

    def teardown(self) -> None:
        if hasattr(self, "registry"):
            self.registry.__exit__()
        super().teardown()

    def before(self, one: Contestant, token: str) -> None:
        one.fresh({})

    def work(self, one: Contestant, token: str) -> Work | None:
        return Work([one.build(self.child, "result", ["--pull"])])


class Push(Registries):
    """The registry is empty each time. A builder that keeps compressed layers sends them; others compress."""

    group = id = "push"

    def __init__(self, site: Site, scale: float) -> None:
        super().__init__(site, scale)
        self.text = f"an image of {self.bytes // MIB} MiB from the store to an empty loopback registry"

    def start(self, one: Contestant) -> Work | None:
        return Work([one.build(self.context, "result")])

    def before(self, one: Contestant, token: str) -> None:
        self.registry = Registry(self.site.scratch / "registry").__enter__()

    def work(self, one: Contestant, token: str) -> Work | None:
        return one.push("result", f"{self.registry.host}/pushed:latest")

    def after(self, one: Contestant) -> None:
        self.registry.__exit__()


class LargeContext(Case):
    group = id = "context"
    most_turns = 3

    def __init__(self, site: Site, scale: float) -> None:
        super().__init__(site, scale)
        self.files, self.bytes = self.of(100_000), self.of(2000 * MIB)
        self.needed_bytes = 14 * self.bytes
        self.text = f"COPY of {self.files} files ({self.bytes // MIB} MiB), of which one changed"

    def sizes(self) -> dict[str, int]:
        return {"files": self.files, "bytes": self.bytes}

    def setup(self) -> None:
        context(self.context, "FROM busybox\nCOPY files /files\n")
        fill(self.context / "files", self.files, self.bytes, "context")

    def start(self, one: Contestant) -> Work | None:
        return self.work(one, "first")

    def before(self, one: Contestant, token: str) -> None:
        edit(self.context, "files/d0000/f000000", token)

    def work(self, one: Contestant, token: str) -> Work | None:
        return Work([one.build(self.context, "result")])

    def after(self, one: Contestant) -> None:
        one.prune()


class CopyMany(LargeContext):
    group = id = "copy-many"

    def __init__(self, site: Site, scale: float) -> None:
        super().__init__(site, scale)
        self.files, self.bytes = self.of(50_000), self.of(50_000 * 1000)
        self.needed_bytes = 20 * self.bytes
        self.text = f"{self.files} small files, one of them changed, through COPY and COPY --from"

    def setup(self) -> None:
        context(
            self.context,
            "FROM busybox AS first\nCOPY files /files\nFROM busybox\nCOPY --from=first /files /files\n",
        )
        fill(self.context / "files", self.files, self.bytes, "copy-many")
