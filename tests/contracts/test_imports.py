"""Which room may import which, and what importing the package loads."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import sa_nowcast

PACKAGE = Path(sa_nowcast.__file__).parent
# Each row may import from the rows above it, at the top of a file and within functions.
ROWS = [
    {
        "_version",
        "errors",
        "published",
        "computing",
        "metadata",
        "forecasts",
    },  # of the folders only what has no place below
    {"metadata.attributes", "metadata.cells"},
    {"metadata.units", "models.record"},
    {"metadata.dims", "forecasts.defaults", "computing.installing", "computing.quiet", "models.config", "models.tiles"},
    {"models.options"},
    {"models.registry"},
    {"storage", "recipe.strict_yaml"},
    {"times", "metadata.bounds", "metadata.thresholds"},
    {"frames", "windows", "sources.samples", "computing.devices"},
    {
        "forecasts.cf",
        "forecasts.labels",
        "forecasts.method",
        "scaling",
        "recipe",
        "models",
        "sources",
        "sources.synthetic_fields",
    },
    {"computing.clusters"},
    {"bundle.files", "conversion", "forecasts.job"},
    {"sources.opening"},
    {"stream", "verification", "computing.slurm"},
    {"forecasts.terms", "forecasts.of_nowcaster"},
    {"forecasts.matched", "forecasts.ensembles", "forecasts.calibration"},
    {"forecasts.at_once", "interop.export"},
    {"bundle"},
    {"forecasts.model", "plotting"},
    {"forecasts.running"},
    {"forecasts.nowcaster"},
    {"forecasts.default_model"},
    {"training"},
    {"hindcast", "interop"},
    {"workflow", "derived"},
    {"operations"},
    {"survey", "shown", "serving"},
    {"accessors"},
    {"cli"},
]
# `defaults` names the nowcaster that it holds, and loads it, or the one that ships, when asked. A record of a network
# asks the registry, whose entries name such records, when it is made.
ALLOWED = {
    ("models.config", "models.registry"),
    ("forecasts.defaults", "forecasts.nowcaster"),
    ("forecasts.defaults", "forecasts.default_model"),
}
HEAVY = {"torch", "lightning", "safetensors"}


def _modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def _imports(path: Path, *, top: bool) -> set[str]:
    """The full names that a file imports; `top`: only those that run when it is imported."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if top and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.Import):
                found.update(a.name for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                found.add(child.module or "")
                found.update(f"{child.module}.{a.name}" for a in child.names)
            visit(child)

    visit(tree)
    return found


def _room(module: str) -> str:
    """The room of a module, or of a name in one: the longest that has a place of its own."""
    rooms = {room for row in ROWS for room in row}
    parts = module.split(".")
    return next((r for i in range(len(parts), 0, -1) if (r := ".".join(parts[:i])) in rooms), parts[0])


def _row(room: str) -> int | None:
    return next((i for i, row in enumerate(ROWS) if room in row), None)


def test_every_room_has_its_place() -> None:
    rooms = {_room(name) for name in _modules()} - {"__init__"}
    assert {r for r in rooms if _row(r) is None} == set()


def test_imports_run_one_way() -> None:
    known = _modules()
    wrong = []
    for name, path in known.items():
        room, row = _room(name), _row(_room(name))
        if name == "__init__":
            continue
        assert row is not None, f"{name} has no place in ROWS"
        for full in _imports(path, top=False):
            target = full.removeprefix("sa_nowcast.")
            if not full.startswith("sa_nowcast.") or target.split(".")[0] not in {k.split(".")[0] for k in known}:
                continue
            other = _room(target)
            where = _row(other)
            if other != room and (where is None or where >= row) and (room, other) not in ALLOWED:
                wrong.append(f"{name} imports {full}")
    assert sorted(set(wrong)) == []


@pytest.mark.parametrize(
    ("rooms", "forbidden"),
    [
        (
            {
                "errors",
                "metadata",
                "metadata.attributes",
                "metadata.cells",
                "metadata.units",
                "metadata.dims",
                "metadata.bounds",
                "frames",
                "windows",
                "scaling",
                "recipe",
                "forecasts.cf",
                "sources.samples",
                "forecasts.defaults",
                "accessors",
            },
            HEAVY,
        ),
        ({"verification", "plotting", "conversion", "sources", "sources.opening"}, HEAVY),
        ({"models", "training"}, {"matplotlib"}),
    ],
)
def test_rooms_without_torch_stay_without_it(rooms: set[str], forbidden: set[str]) -> None:
    for name, path in _modules().items():
        if _room(name) in rooms:
            found = {full.split(".")[0] for full in _imports(path, top=True)}
            assert not found & forbidden, name


def test_the_networks_know_torch_and_errors_only() -> None:
    for name, path in _modules().items():
        if _room(name) in ("models", "models.config"):
            ours = {f for f in _imports(path, top=True) if f.startswith("sa_nowcast.")}
            assert all(f.startswith(("sa_nowcast.models", "sa_nowcast.errors")) for f in ours), (
                name,
                ours,
            )


# torch meets xarray where data become batches, where forecasts get labels, and where the two are brought together.
MEETING = {"stream", "forecasts.running", "forecasts.ensembles", "training"}


def test_torch_meets_xarray_only_where_it_should() -> None:
    for name, path in _modules().items():
        found = {full.split(".")[0] for full in _imports(path, top=True)}
        if {"torch", "xarray"} <= found:
            assert _room(name) in MEETING, name


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import xarray; xarray_loads = set(sys.modules); import sa_nowcast; "
        "heavy = {'torch', 'matplotlib', 'distributed', 'dask', 'lightning', 'pydantic', 'zarr', 'netCDF4', 'yaml', "
        "'typer', 'rich', 'scores', 'skimage', 'safetensors', 'h5py'} - xarray_loads; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_opening_data_and_asking_for_help_load_no_torch() -> None:
    for code in (
        "import sa_nowcast; sa_nowcast.open_sample('mrms'); sa_nowcast.models.preset('small')",
        "import sa_nowcast.cli",
        "from sa_nowcast.recipe import read_recipe; read_recipe('recipes/quickstart.yaml')",
    ):
        shown = subprocess.run(
            [sys.executable, "-c", f"{code}; import sys; print('torch' in sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
            cwd=PACKAGE.parent,
        )
        assert shown.stdout.strip() == "False", code


def test_every_module_can_be_imported_on_its_own() -> None:
    for name in _modules():
        if name not in ("__init__", "__main__"):
            importlib.import_module(f"sa_nowcast.{name}")
