"""The house stands as docs/architecture.md says: imports go down, and dangerous calls are nowhere."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "fullconv"
FILES = sorted(SOURCE.rglob("*.py"))


def room(path):
    """The room a file belongs to; "" for the doorways of the package."""
    first = path.relative_to(SOURCE).parts[0]
    name = first.removesuffix(".py")
    return "" if name in ("__init__", "__main__") else name


def allowed():
    """The table of docs/architecture.md."""
    rows = re.findall(r"^\| (\w+) \| ([\w, ]*)\|$", (ROOT / "docs" / "architecture.md").read_text(), re.M)
    return {name: {part.strip() for part in parts.split(",") if part.strip()} for name, parts in rows}


def imports(path):
    """The rooms that a file imports from, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "fullconv" and len(parts) > 1:
                found.add(parts[1])
    return found


def test_the_table_names_every_room_once_and_goes_down():
    table = allowed()
    assert set(table) == {room(path) for path in FILES} - {""}
    order = list(table)
    for name, below in table.items():
        assert all(order.index(other) < order.index(name) for other in below), name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_only(path):
    here = room(path)
    if not here:
        return
    public = {"__version__"}  # a fact of the package itself
    other = imports(path) - {here} - public
    import fullconv

    through_the_door = {fullconv._HOME[name].split(".")[0] for name in other if name in fullconv._HOME}
    rooms = {name for name in other if name not in fullconv._HOME} | through_the_door
    assert rooms - {here} <= allowed()[here], f"{path} imports {sorted(rooms - allowed()[here])}"


FORBIDDEN = {
    "torch.load", "torch.hub", "pickle.load", "pickle.loads", "eval", "exec", "yaml.load", "yaml.unsafe_load",
    "os.system",
    "subprocess.run", "subprocess.Popen", "urllib.request.urlopen", "shutil.unpack_archive",
}  # fmt: skip


def dotted(node):
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_dangerous_call(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        # The one reader of PyTorch's files; tensors and plain values only.
        reads = name == "torch.load" and path.name == "pytorch.py" and keywords.get("weights_only") is True
        # The one process that is started: this package itself, which reads MATLAB's files and may die of them.
        starts = name == "subprocess.Popen" and str(path.relative_to(SOURCE)) == "io/mat.py"
        assert name not in FORBIDDEN or reads or starts, f"{path}:{node.lineno} calls {name}"
        assert name != "Image.open" or "formats" in keywords, f"{path}:{node.lineno} opens any format"
        assert not keywords.get("shell"), f"{path}:{node.lineno} starts a shell"
        assert not keywords.get("allow_pickle"), f"{path}:{node.lineno} unpickles"


def test_the_test_of_imports_can_fail(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("from fullconv.cli.command import main\ndef f():\n    import fullconv.training.run\n")
    assert imports(file) == {"cli", "training"}


def test_files_stay_rooms_and_not_halls():
    long = {str(p.relative_to(SOURCE)): n for p in FILES if (n := len(p.read_text().splitlines())) > 360}
    assert not long, long
