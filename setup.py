"""For `colcon build` alone, which installs Python packages by setuptools: what pyproject.toml says, in its words.

Setuptools must not read pyproject.toml itself: colcon evaluates the printed result, which its objects do not survive,
and that of Ubuntu 24.04 (68) refuses the licence. `colcon build --symlink-install` runs a link to this file, in a
folder without pyproject.toml.
"""

import tomllib
from pathlib import Path

from setuptools import Distribution, find_namespace_packages, setup

PYPROJECT = tomllib.loads(Path(__file__).resolve().with_name("pyproject.toml").read_text())
PROJECT, WHEEL = PYPROJECT["project"], PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]


class OwnWords(Distribution):
    def parse_config_files(self, *_, **__):
        pass


def data_files():
    for source, target in WHEEL["shared-data"].items():
        path = Path(source)
        if path.is_dir():
            yield target, sorted(str(file) for file in path.iterdir() if file.is_file())
        elif Path(target).name == path.name:
            yield str(Path(target).parent), [source]


def entry_points():
    scripts = {"console_scripts": PROJECT["scripts"], **PROJECT["entry-points"]}
    return {group: [f"{name} = {target}" for name, target in names.items()] for group, names in scripts.items()}


setup(
    distclass=OwnWords,
    name="robot_rl",
    version=PROJECT["version"],
    description=PROJECT["description"],
    license=PROJECT["license"],
    python_requires=PROJECT["requires-python"],
    install_requires=PROJECT["dependencies"],
    packages=find_namespace_packages(include=[f"{room}{rest}" for room in WHEEL["packages"] for rest in ("", ".*")]),
    package_data={"": ["*.html", "*.xml"]},
    data_files=list(data_files()),
    entry_points=entry_points(),
)
