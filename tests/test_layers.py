"""The source keeps the layers of docs/architecture.md, and dangerous calls appear nowhere."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "fullconv"
FILES = sorted(SOURCE.rglob("*.py"))


def package(path):
    """Return the top-level package or module that a file belongs to; "" for `__init__` and `__main__`."""
    name = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "" if name in ("__init__", "__main__") else name


def layers():
    """Read the rows of the table in docs/architecture.md, lowest first: layer -> its packages."""
    rows = re.findall(r"^\| (\w+) \| ([\w, ]+) \|", (ROOT / "docs" / "architecture.md").read_text(), re.M)
    return {layer: [name.strip() for name in names.split(",")] for layer, names in rows if layer != "layer"}


def imports(source):
    """Return the modules that a source imports from this package, anywhere in it."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            whole = node.module == "fullconv"
            modules |= {f"fullconv.{alias.name}" for alias in node.names} if whole else {node.module}
    return {name for name in modules if name.startswith("fullconv.")}


def packages_imported(source):
    """Return the top-level packages behind `imports`; a public name counts for the package that defines it."""
    import fullconv

    heads = (name.split(".")[1] for name in imports(source))
    return {fullconv._HOME[name].split(".")[0] if name in fullconv._HOME else name for name in heads} - {"__version__"}


def test_every_package_has_one_layer():
    names = [name for row in layers().values() for name in row]
    assert sorted(names) == sorted({package(path) for path in FILES} - {""})
    assert list(layers()) == ["facts", "method", "things", "doing", "delivering", "command"]


APART = {  # layer neighbours and lower layers that must not be imported all the same
    "models": {"io", "data", "datasets", "weights"},
    "io": {"models"},
    "data": {"models"},
    "datasets": {"models"},
    "exporting": {"training"},
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_only(path):
    here = package(path)
    if not here:
        return
    rank = {name: row for row, names in enumerate(layers().values()) for name in names}
    imported = packages_imported(path.read_text()) - {here}
    upward = {name for name in imported if rank[name] > rank[here]}
    assert not upward, f"{path} imports {sorted(upward)}"
    assert not imported & APART.get(here, set()), f"{path} imports {sorted(imported & APART[here])}"


def test_init_files_only_re_export():
    for path in FILES:
        if path.name != "__init__.py" or path.parent == SOURCE:
            continue
        for node in ast.parse(path.read_text()).body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            names = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            assert docstring or names or isinstance(node, ast.ImportFrom), f"{path}:{node.lineno}"


SAME_JOB = {"convert", "check", "compare", "evaluate", "export", "predict", "train", "bench", "inspect", "data", "demo"}
"""Verbs: `cli/NAME.py` parses and prints what the module of that name does."""


def test_no_two_modules_or_public_classes_share_a_name():
    modules, classes = defaultdict(list), defaultdict(list)
    for path in FILES:
        if not path.name.startswith("__"):
            modules[path.stem].append(path)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].append(path)
    for path in FILES:
        if path.parent.name != "cli" and path.stem in SAME_JOB:
            modules[path.stem] = [other for other in modules[path.stem] if other.parent.name != "cli"]
    assert {name: paths for name, paths in modules.items() if len(paths) > 1} == {}
    assert {name: paths for name, paths in classes.items() if len(paths) > 1} == {}


def test_the_test_of_imports_can_fail():
    source = "from fullconv.cli import main\ndef f():\n    import fullconv.training.run\n    from fullconv import fit\n"
    assert imports(source) == {"fullconv.cli", "fullconv.training.run", "fullconv.fit"}
    assert packages_imported(source) == {"cli", "training"}


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
        # The one reader of PyTorch's files: tensors and plain values only.
        reads = name == "torch.load" and path.name == "torch_file.py" and keywords.get("weights_only") is True
        # The processes that are started are this package's own: a reader of MATLAB's files, which may die, and nncf.
        starts = (str(path.relative_to(SOURCE)), name) in {
            ("io/mat.py", "subprocess.Popen"),
            ("exporting/int8.py", "subprocess.run"),
        }
        assert name not in FORBIDDEN or reads or starts, f"{path}:{node.lineno} calls {name}"
        assert name != "Image.open" or "formats" in keywords, f"{path}:{node.lineno} opens any format"
        assert not keywords.get("shell"), f"{path}:{node.lineno} starts a shell"
        assert not keywords.get("allow_pickle"), f"{path}:{node.lineno} unpickles"


def test_files_hold_one_topic():
    long = {str(p.relative_to(SOURCE)): n for p in FILES if (n := len(p.read_text().splitlines())) > 400}
    assert not long, long


CHECKS = {"raises", "warns", "fail", "check", "assert_close", "assert_equal", "assert_allclose", "assert_array_equal"}
"""Calls that fail a test beside ``assert``."""


def without_assertion(trees):
    """The tests of some modules in which nothing can fail: no assertion in them, nor in a function that they call."""
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    calls = {f: {dotted(n.func).split(".")[-1] for n in ast.walk(f) if isinstance(n, ast.Call)} for f in functions}
    asserting = {f for f in functions if any(isinstance(n, ast.Assert) for n in ast.walk(f))}
    names = set()
    while names != (names := CHECKS | {f.name for f in asserting if not f.name.startswith("test_")}):
        asserting |= {f for f in functions if calls[f] & names}
    return [f.name for f in functions if f.name.startswith("test_") and f not in asserting]


def test_every_test_asserts_something():
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / "tests").rglob("*.py"))]
    assert not without_assertion(trees)
    text = "def check_it(x):\n    assert x\ndef test_a():\n    check_it(1)\ndef test_b():\n    print(1)\n"
    assert without_assertion([ast.parse(text)]) == ["test_b"]
