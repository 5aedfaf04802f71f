"""The command line: one command for each public function, and no logic.

Nothing heavy is imported before a command runs, so that ``--help`` and wrong usage answer at once.
"""

from __future__ import annotations

from .app import app, main
from .apply import InOrder, apply
from .bench import bench
from .compare import compare
from .compress import compress
from .demo import demo
from .inspect import inspect
from .lint import lint
from .measure import measure
from .passes import passes
from .reading import reads_data
from .sensitivity import sensitivity
from .targets import targets

__all__ = ["app", "main"]

app.command()(demo)
app.command()(reads_data(compress))
app.command(cls=InOrder)(reads_data(apply))
app.command()(inspect)
app.command()(lint)
app.command()(reads_data(compare))
app.command()(reads_data(sensitivity))
app.command()(reads_data(bench))
app.command()(measure)
app.command()(targets)
app.command()(passes)
