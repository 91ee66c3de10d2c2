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
        "bootstrap": Entry("bootstrap", "bootstrap", "Make a base image from a distribution's packages."),
        "run": Entry("run", "run", "Run a command in an image, to try it out."),
        "debug": Entry("run", "debug", "Open a shell where a step of a build failed."),
    },
    "Images": {
        "images": Entry("images", "images", "List the images of the local store."),
        "inspect": Entry("images", "inspect", "Show an image's config, manifest or index."),
        "tag": Entry("images", "tag", "Give an image another name."),
        "rm": Entry("images", "rm", "Remove names of images."),
        "pull": Entry("transfer", "pull", "Fetch an image from a registry."),
        "push": Entry("transfer", "push", "Send an image to a registry."),
        "save": Entry("archives", "save", "Write images to an archive."),
        "load": Entry("archives", "load", "Read images from an archive."),
    },
    "Store": {
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
