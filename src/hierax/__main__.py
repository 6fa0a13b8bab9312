"""`python -m hierax`."""

import sys

from .cli import main

sys.exit(main())
