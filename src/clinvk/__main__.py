"""`python -m clinvk` is the `clinvk` command."""

import sys

from clinvk.cli import main

sys.exit(main())
