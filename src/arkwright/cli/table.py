"""The table of commands: names, where each lives, and the line that the overview shows.

Nothing of a command is imported before it is asked for.
"""

from __future__ import annotations

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """One command: `module` below `arkwright.cli`, `attribute` in it, and its short help."""

    module: str
    attribute: str
    short_help: str


SECTIONS: dict[str, dict[str, Entry]] = {
    "Build": {
        "build": Entry("build", "build", "Build an image from a Dockerfile."),
        "lock": Entry("lock", "lock", "Pin what a Dockerfile takes from elsewhere, in a lock file."),
        "bootstrap": Entry("bootstrap", "bootstrap", "Make a base image from a distribution's packages."),
        "run": Entry("run", "run", "Run a command in an image, to try it out."),
        "debug": Entry("run", "debug", "Open a shell where a step of a build failed."),
    },
    "Images": {
        "images": Entry("images", "images", "List the images of the local store."),
        "tag": Entry("images", "tag", "Give an image another name."),
        "rm": Entry("images", "rm", "Remove names of images, or working containers."),
        "pull": Entry("transfer", "pull", "Fetch an image from a registry, or from anywhere else."),
        "push": Entry("transfer", "push", "Send an image to a registry, or to anywhere else."),
        "save": Entry("archives", "save", "Write images to an archive."),
        "load": Entry("archives", "load", "Read images from an archive."),
        "copy": Entry("copying", "copy", "Copy an image to other places, or files into a container."),
        "sync": Entry("copying", "sync", "Copy the images of a list."),
        "export": Entry("export", "export", "Bring an OCI layout up to date, to share it."),
        "ls-tags": Entry("remote", "ls_tags", "List the tags of a repository in a registry."),
        "delete": Entry("remote", "delete", "Delete images from a registry."),
    },
    "Look": {
        "inspect": Entry("inspect", "inspect", "Show an image's config, manifest, history and referrers."),
        "tree": Entry("look", "tree", "Show the files of an image as a tree."),
        "ls": Entry("look", "ls", "List a directory inside an image."),
        "cat": Entry("look", "cat", "Print a file inside an image."),
        "diff": Entry("compare", "diff", "Show how two images differ."),
        "layers": Entry("layers", "layers", "Show an image's layers, and what is wasted in them."),
        "validate": Entry("layers", "validate", "Check an image against the specification."),
    },
    "Change": {
        "config": Entry("change_config", "config", "Show or edit the config of an image or a container."),
        "append": Entry("change", "append", "Add a layer to an image: a tar or a directory."),
        "squash": Entry("change", "squash", "Make the layers of an image one layer."),
        "flatten": Entry("change", "flatten", "Make an image one layer with one entry of history."),
        "rebase": Entry("change_rebase", "rebase", "Put an image on another base, without a build."),
        "annotate": Entry("change_index", "annotate", "Set annotations of an image or an index."),
        "index": Entry(
            "change_index", "index", "Make an index of images for several platforms, and change it."
        ),
        "filter": Entry("change", "filter_", "Drop paths from all layers of an image."),
        "chown-map": Entry("change", "chown_map", "Change the user and group ids in all layers of an image."),
    },
    "Containers": {
        "from": Entry("containers", "from_", "Begin a working container, and print its name."),
        "containers": Entry("containers", "containers", "List the working containers."),
        "commit": Entry("containers", "commit", "Make an image of a working container."),
        "mount": Entry("mounting", "mount", "Mount a working container's tree, and print where."),
        "umount": Entry("mounting", "umount", "Take the mount of a working container away."),
        "unshare": Entry(
            "mounting", "unshare", "Run a program where this user may mount, as `mount` needs it."
        ),
        "unpack": Entry("bundles", "unpack", "Unpack an image to a runtime bundle."),
        "repack": Entry("bundles", "repack", "Make an image of a bundle, with a layer of what has changed."),
        "mtree": Entry("bundles", "mtree", "Write or check the manifest of a tree (mtree)."),
    },
    "Evidence": {
        "sbom": Entry("sbom", "sbom", "List the packages that an image is made of."),
        "provenance": Entry("provenance", "provenance", "Say how an image was made, from what."),
        "verify": Entry("verify", "verify", "Build an image again from its record, and compare."),
        "check-reproducible": Entry(
            "verify", "check_reproducible", "Build twice in different worlds, and say what differs."
        ),
        "export-record": Entry("record", "export_record", "Write what others need to verify a build."),
        "policy": Entry("policy", "policy", "Check rules for what may enter builds."),
        "key": Entry("evidence", "key", "Make keys to sign with."),
        "sign": Entry("evidence", "sign", "Sign an image with a key."),
        "verify-signature": Entry("evidence", "verify_signature", "Check the signatures of an image."),
    },
    "Store": {
        "serve": Entry("serve", "serve", "Serve the local store to other tools."),
        "history": Entry("history", "history", "Look at the builds of this store."),
        "explain": Entry("explain", "explain", "Say why steps of a build ran or were cached."),
        "du": Entry("disk", "du", "Say what takes how much disk."),
        "quota": Entry("disk", "quota", "Show or set how much disk the store may take."),
        "cache": Entry("cache", "cache", "Look at the cache and at cache mounts."),
        "prune": Entry("cache", "prune", "Delete what no image with a name needs."),
        "fsck": Entry("cache", "fsck", "Check the store, and repair it."),
    },
    "Other": {
        "doctor": Entry("doctor", "doctor", "Say what this host can do, and how to fix the rest."),
        "completion": Entry("completion", "completion", "Print the completion script of a shell."),
    },
}

COMMANDS: dict[str, Entry] = {name: entry for section in SECTIONS.values() for name, entry in section.items()}
