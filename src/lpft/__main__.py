"""``python -m lpft``: the command line."""

import sys

from lpft.cli import main

sys.exit(main())
