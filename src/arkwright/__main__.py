"""The program: `arkwright`, or `python -m arkwright`."""

import gc

# Start-up makes objects that live to the end: by default the collector looks through them some
# hundred times, for 8 ms.
_OBJECTS_BETWEEN_COLLECTIONS = 50_000


def main() -> None:
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    from arkwright.cli.main import main as run

    try:
        run()
    finally:
        # The collections at the interpreter's end would look at everything once more, for 10 ms, and
        # free what the kernel frees in a moment.
        gc.freeze()


if __name__ == "__main__":
    main()
