"""``python -m aloe``."""

from aloe.cli import main

main()
