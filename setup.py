"""What setup.cfg cannot say: ``devices/`` at the top travels inside the package, as ``ofa/devices/``."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["ofa*"]), "ofa.devices"], package_dir={"ofa.devices": "devices"})
