"""The entry point of `python -m refusion`."""

from refusion.cli import main

main()
