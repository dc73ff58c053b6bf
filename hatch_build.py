"""Compiles store/_lookup.c, the one file of the project that is not Python."""

import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension


class Compile(BuildHookInterface):
    """Builds the extension in place; a wheel serves its platform from Python 3.11 on."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile for a wheel and for an editable installation alike."""
        source = Extension(
            "store._lookup",
            ["store/_lookup.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            extra_compile_args=["-O3"],
        )
        for stale in Path(self.root, "store").glob("_lookup*.so"):
            stale.unlink()
        package = Distribution({"name": "itemnest", "ext_modules": [source]})
        build = package.get_command_obj("build_ext")
        build.inplace = True
        with TemporaryDirectory() as scratch:
            build.build_temp = build.build_lib = scratch
            build.ensure_finalized()
            build.run()
        (library,) = Path(self.root, "store").glob("_lookup*.so")
        build_data["artifacts"].append(f"/store/{library.name}")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"cp311-abi3-{platform}"
