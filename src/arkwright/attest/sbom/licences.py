"""Which statements of licences are SPDX licence expressions (SPDX 2.3, annex D); metadata is free text mostly."""

from __future__ import annotations

import re

_NAMES = """
    0BSD AFL-2.1 AFL-3.0 AGPL-3.0-only AGPL-3.0-or-later Apache-1.1 Apache-2.0 Artistic-1.0-Perl
    Artistic-2.0 blessing BlueOak-1.0.0 BSD-1-Clause BSD-2-Clause BSD-2-Clause-Patent BSD-3-Clause
    BSD-4-Clause BSL-1.0 BUSL-1.1 bzip2-1.0.6 CC-BY-3.0 CC-BY-4.0 CC-BY-SA-4.0 CC0-1.0 CDDL-1.0 CDDL-1.1
    curl EPL-1.0 EPL-2.0 EUPL-1.2 FTL GFDL-1.3-or-later GPL-1.0-only GPL-1.0-or-later GPL-2.0-only
    GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later HPND ICU IJG Info-ZIP ISC JSON LGPL-2.0-only
    LGPL-2.0-or-later LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later Libpng libtiff MIT
    MIT-0 MIT-CMU MPL-1.1 MPL-2.0 MS-PL NCSA NTP OFL-1.1 OLDAP-2.8 OpenSSL PHP-3.01 PostgreSQL PSF-2.0
    Python-2.0 Ruby Sleepycat SSPL-1.0 TCL Unicode-3.0 Unicode-DFS-2016 Unlicense UPL-1.0 Vim W3C WTFPL
    X11 Zlib zlib-acknowledgement ZPL-2.1
"""
_EXCEPTION_NAMES = """
    Autoconf-exception-3.0 Bison-exception-2.2 Classpath-exception-2.0 GCC-exception-3.1 Linux-syscall-note
    LLVM-exception OpenJDK-assembly-exception-1.0
"""
# Of the SPDX licence list, those that packages' metadata uses, and exceptions from them.
KNOWN = frozenset(_NAMES.split())
_EXCEPTIONS = frozenset(_EXCEPTION_NAMES.split())
_WORD = re.compile(r"[()]|[^\s()]+")
_MAX_WORDS = 100


def is_expression(text: str) -> bool:
    """Whether it is made of known names, operators and brackets, in an order that has a meaning."""
    words = _WORD.findall(text, 0, 4096) if len(text) <= 4096 else []
    depth, wants_name, last = 0, True, ""
    for word in words[: _MAX_WORDS + 1]:
        if last == "WITH":
            right, wants_name = word in _EXCEPTIONS, False
        elif wants_name:
            right = word == "(" or word in KNOWN
            depth, wants_name = depth + (word == "("), word == "("
        elif word == ")":
            depth, right = depth - 1, depth > 0
        elif word == "WITH":
            right = last in KNOWN
        else:
            right, wants_name = word in ("AND", "OR"), True
        if not right:
            return False
        last = word
    return 0 < len(words) <= _MAX_WORDS and depth == 0 and not wants_name and last != "WITH"
