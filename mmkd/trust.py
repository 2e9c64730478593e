"""Networks of users' own (`module:function`): which of them a model folder may name, since naming one is running it.

Anybody can write a model.json. What the settings of this job name is trusted, and what MMKD_TRUST_ARCH names; it is
handed on to the processes that a job starts, on this machine and by Ray (:func:`mmkd.cluster.ray_session`).
"""

import os
from collections.abc import Collection, Iterable

TRUST = "MMKD_TRUST_ARCH"
"""Environment variable: modules, or module:function, by commas."""
LIBRARIES = ("timm/", "torchvision/", "hf/")
"""What the names of others' networks begin with."""


def is_own(arch: str) -> bool:
    """Whether it names code, and not a network that mmkd or a library has."""
    return ":" in arch and not arch.startswith(LIBRARIES)


def trust(archs: Iterable[str]) -> None:
    """Trust networks from now on, in this process and those that it starts."""
    named = dict.fromkeys([*_named(), *filter(is_own, archs)])
    if named:
        os.environ[TRUST] = ",".join(named)


def refuse_untrusted(arch: str, where: object, trusted: Collection[str] = ()) -> None:
    """Refuse code that nobody here said may be run.

    Args:
        where: the file that names it.
        trusted: modules, or module:function, besides those of the environment.

    Raises:
        ValueError: it is code, and not trusted; the message says how to trust it.
    """
    module = arch.partition(":")[0]
    if is_own(arch) and {*trusted, *_named()}.isdisjoint({arch, module}):
        raise ValueError(
            f"{where} names {arch!r}: code that would be imported and run. If it is your own network, or you have read "
            f"it and trust it, say so: {TRUST}={module} in the environment of the command (of a submitted job: "
            f"""--runtime-env-json '{{"env_vars": {{"{TRUST}": "{module}"}}}}'), or in your own code """
            f"load_model(folder, trust=[{arch!r}])."
        )


def _named() -> list[str]:
    return os.environ.get(TRUST, "").replace(",", " ").split()
