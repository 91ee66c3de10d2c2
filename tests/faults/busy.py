"""The program, with less patience for a locked database; for a child process: SECONDS ARGUMENTS…"""

from __future__ import annotations

import sys

from arkwright.cli.main import main
from arkwright.store import metadata

metadata._BUSY_S = float(sys.argv[1])
sys.argv = ["arkwright", *sys.argv[2:]]
main()
