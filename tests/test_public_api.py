"""What `import cuvee` gives, and what it must not cost."""

import subprocess
import sys
import types

import cuvee

HEAVY = ("torch", "lightgbm", "sklearn", "matplotlib", "datasets", "tokenizers", "typer")
MAX_NAMES = 30


def test_all_is_sorted_and_short() -> None:
    """The public names stand sorted, without repeats."""
    names = list(cuvee.__all__)
    assert names == sorted(set(names))
    assert len(names) <= MAX_NAMES


def test_all_names_exist_and_nothing_else_is_public() -> None:
    """Everything exported exists; everything public is exported, submodules apart."""
    for name in cuvee.__all__:
        assert hasattr(cuvee, name), name
    public = {
        name
        for name, value in vars(cuvee).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public <= set(cuvee.__all__)


def test_public_names_are_documented() -> None:
    """Every public class and function has a docstring of its own."""
    for name in cuvee.__all__:
        value = getattr(cuvee, name)
        if isinstance(value, type | types.FunctionType):
            assert value.__doc__, name


def test_import_is_light() -> None:
    """Importing cuvee loads neither torch nor any other heavy library."""
    code = f"import sys, cuvee; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
    assert done.stderr == ""
