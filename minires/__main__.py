"""`python -m minires` is the same as the command `minires`."""

import sys

from minires.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
