"""Build script; all metadata stands in pyproject.toml.

It is there because compiled operators have to be declared in code, against the torch that is
already installed. That is also why torch is installed first and this package with
`--no-build-isolation`. No operator is declared so far.
"""

from setuptools import setup

setup()
