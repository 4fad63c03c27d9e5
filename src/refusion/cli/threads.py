"""The option for the number of threads that a command computes with."""

from typing import Annotated

from cyclopts import Parameter

Threads = Annotated[
    int | None,
    Parameter(help="Threads of each process; by default one for each core that it may use."),
]
