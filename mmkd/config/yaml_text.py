"""YAML as people write settings."""

import re
from collections.abc import Hashable
from typing import Any

import yaml


def load_yaml(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        yaml.YAMLError: it is none, or lists something twice.
    """
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, which to PyYAML is text, and nothing is listed twice, which it lets pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} is listed twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
