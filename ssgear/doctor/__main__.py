"""`python -m ssgear.doctor`."""

import sys

from ssgear.doctor.command import main

if __name__ == "__main__":
    sys.exit(main())
