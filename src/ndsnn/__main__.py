"""`python -m ndsnn` is `ndsnn`."""

import sys

from ndsnn.cli import main

sys.exit(main())
