"""The contract tests need no host: what they share is in environments.py."""

import sys
from pathlib import Path

# The roles' folders are copied to hosts as they are.
sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(HERE.parents[1] / "plugins/filter")]
