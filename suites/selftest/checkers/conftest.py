"""Makes ``storybook`` (the histories that tests tell in words) importable beside the tests, whatever the import mode."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
