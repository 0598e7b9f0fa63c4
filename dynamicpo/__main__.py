"""`python -m dynamicpo`: the command line, where its program is not on PATH."""

import sys

from dynamicpo.cli.main import main

if __name__ == "__main__":  # images/smoke.py imports every module
    sys.exit(main())
