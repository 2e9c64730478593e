"""What is installed besides the base, which uses models and reads data sets: extras, of which `train` makes them."""

from importlib.util import find_spec

TRAIN = ("ray", "tyro")
"""Modules of the extra `train` without which no job starts."""


def require_extra(extra: str, *modules: str) -> None:
    """Refuse to go on without the modules of an extra.

    Raises:
        ModuleNotFoundError: some are not installed; the message says what to install.
    """
    if missing := [name for name in modules if find_spec(name) is None]:
        raise ModuleNotFoundError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: pip install 'mmkd[{extra}]' "
            f"(in a copy of the project: pip install -e '.[{extra}]'). Without, mmkd can use models, no more.",
            name=missing[0],
        )
