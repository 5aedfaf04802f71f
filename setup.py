"""Finds the packages: `passes/` and `models/` lie beside the core and are imported as parts of it."""

from setuptools import find_packages, setup

SHIPPED = ("passes", "models")

setup(
    packages=[
        *find_packages(include=["onnxcompress", "onnxcompress.*"]),
        *(f"onnxcompress.{name}" for top in SHIPPED for name in find_packages(include=[top, f"{top}.*"])),
    ],
    package_dir={"onnxcompress": "onnxcompress", **{f"onnxcompress.{top}": top for top in SHIPPED}},
)
