"""``python -m emergent_equivariance`` is ``emeq``."""

from .cli import main

main()
