"""Makes the engine ``stub`` known to every Python process that finds this folder on its PYTHONPATH.

The program itself does not know it: a study with ``execution.engine: stub`` is refused without this folder, so that no
shard made of numbers drawn at random is ever taken for a trained one. The table of engines is loaded ahead of its
package, because the settings take the names of engines from it when they are imported.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import usage

TABLE, STUB = "emergent_equivariance.settings.engines", "emergent_equivariance.training.stub_engine"


class StubFinder:
    """Finds the module of the stub engine here."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return spec_from_file_location(STUB, Path(__file__).with_name("stub_engine.py")) if name == STUB else None


def register():
    """Put the stub into the table of engines, for all networks and never by default."""
    package = find_spec("emergent_equivariance")
    if package is None or package.submodule_search_locations is None:  # another Python
        return
    folder = Path(next(iter(package.submodule_search_locations)))
    spec = spec_from_file_location(TABLE, folder / "settings" / "engines.py")
    table = sys.modules[TABLE] = module_from_spec(spec)
    spec.loader.exec_module(table)
    footprint = table.Footprint(200_000_000, 0.0, 0.0, 0.0)
    stub = {"module": "stub_engine", "cls": "StubEngine", "stacks": (), "footprint": footprint, "default": {}}
    table.ENGINES["stub"] = table.ENGINES["torch"]._replace(**stub, gpu=False)
    sys.meta_path.insert(sys.meta_path.index(PathFinder), StubFinder)


register()
usage.watch()
