"""``python -m datalab`` is the ``datalab`` command."""

import os
import sys

# `python -m` looks for modules in the working directory first, which may be a stranger's record: a file there that is
# called like a library would be run. The console script `datalab` does not look there at all.
if sys.path and os.path.realpath(sys.path[0]) == os.getcwd() != os.path.dirname(os.path.dirname(__file__)):
    del sys.path[0]

from datalab.cli import main

if __name__ == "__main__":
    main()
