"""`python -m ssgear.evaluate`."""

import sys

from ssgear.evaluate.command import main

if __name__ == "__main__":
    sys.exit(main())
