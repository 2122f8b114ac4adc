"""The same for ``python -m proxy.cli``."""

from proxy.cli import main

main()
