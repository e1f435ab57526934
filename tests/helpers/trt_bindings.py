"""The real Python bindings of TensorRT without its libraries, and what the fakes and the kit say held against them.

The bindings wheel (1.3 MB) has every class, enum and signature. The libraries that it links to are replaced by empty
ones whose functions return null, so nothing can be built or run with it: it answers whether a name exists in a version,
with which parameters. One version a process:

python trt_bindings.py 11.4.0.106 FOLDER [KIT FILES]    # prints, as JSON, what was looked at and what is wrong
"""

import ast
import ctypes
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path


class Unavailable(Exception):  # noqa: N818 - no error: a test is skipped
    """The bindings cannot be had here."""


def load(version, folder):
    """Return the real bindings, linked to libraries of ours that do nothing."""
    library = fetch(version, folder)
    libraries = re.findall(r"NEEDED.*\[(libnv\w+\.so\.\d+)\]", printed("readelf", "-d", library))
    names = re.findall(r" U (\w+)$", printed("nm", "-D", "--undefined-only", library), re.M)
    wanted = [
        n
        for n in names
        if n.endswith("_INTERNAL") or n.startswith(("getPlugin", "getBuilder", "getNv", "getInfer", "initLibNv"))
    ]
    for i, name in enumerate(libraries):
        source = folder / f"empty{i}.c"
        source.write_text("".join(f"void *{n}(void) {{ return 0; }}\n" for n in ([] if i else wanted)) + f"int e{i};\n")
        subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, source], check=True)
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    spec = importlib.util.spec_from_file_location("tensorrt", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # the package has its version from the file beside the library
    module.__version__ = re.search(r'__version__ = "(.*)"', (library.parent / "__init__.py").read_text())[1]
    return module


def fetch(version, folder):
    """Download and unpack the bindings of a version; return the path of their library."""
    if lacking := [tool for tool in ("gcc", "readelf", "nm") if shutil.which(tool) is None]:
        raise Unavailable(f"there is no {', no '.join(lacking)}")
    wheel = f"tensorrt-cu13-bindings=={version}"
    options = ["-q", "--no-deps", "--only-binary=:all:", "--retries", "1", "--timeout", "15", "-d", str(folder)]
    done = subprocess.run([sys.executable, "-m", "pip", "download", *options, wheel], capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"pip cannot download {wheel}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder)
    return folder / "tensorrt_bindings" / "tensorrt.so"


def printed(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def overloads(documented):
    """Return the parameters of each overload in a bound function's docstring, as (name, whether it has a default)."""
    found = []
    for line in (documented.__doc__ or "").splitlines():
        if match := re.match(r"(?:\d+\. )?\w+\((self: .*)\) ->", line.strip()):
            parts = re.split(r",\s*(?=\w+: )", match[1])[1:]
            found.append([(part.split(":")[0], " = " in part) for part in parts])
    return found


def unfaithful(fake, real):
    """Return what a fake class has that the real one has not, or has with other parameters."""
    problems = []
    for name, member in vars(fake).items():
        where = f"{fake.__name__}.{name}"
        if name.startswith("_") and name != "__init__":
            continue
        if not hasattr(real, name):
            problems.append(f"{where} is not there")
        elif inspect.isfunction(member):
            mine = list(inspect.signature(member).parameters)[1:]
            theirs = overloads(getattr(real, name))
            fits = [[n for n, _ in o[: len(mine)]] == mine and all(d for _, d in o[len(mine) :]) for o in theirs]
            if not any(fits):
                problems.append(f"{where} takes {theirs}, not {mine}")
        elif callable(getattr(real, name)):
            problems.append(f"{where} is a method")
    return problems


def dotted(source):
    """Return every dotted name in a program that begins with `trt.`, without it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        chain = []
        while isinstance(node, ast.Attribute):
            chain.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id == "trt" and chain:
            found.add(tuple(chain))
        if chain[:1] == ["trt"] and isinstance(node, ast.Name) and node.id == "self":
            found.add(tuple(chain[1:]))
    return sorted(chain for chain in found if chain)


def absent(source, trt):
    """Return the dotted names in a program that this TensorRT does not have."""
    problems = []
    for chain in dotted(source):
        place = trt
        for i, name in enumerate(chain):
            place = getattr(place, name, None)
            if place is None:
                problems.append(f"trt.{'.'.join(chain[: i + 1])} is not there")
                break
    return problems


class Wrong:
    """A fake builder configuration with three mistakes; one of them is none in TensorRT 10."""

    int8_calibrator = None
    clear_flag = None

    def set_flag(self, number):
        """The parameter is called `flag`."""


def main(version, folder, *kit):
    import trt_fakes

    try:
        trt = load(version, Path(folder))
    except Unavailable as why:
        print(json.dumps({"unavailable": str(why)}))
        return
    fakes = [m for m in vars(trt_fakes.module(version, trt_fakes.World())).values() if isinstance(m, type)]
    problems = [f"{f.__name__} is not there" for f in fakes if not hasattr(trt, f.__name__)]
    problems += [p for f in fakes if hasattr(trt, f.__name__) for p in unfaithful(f, getattr(trt, f.__name__))]
    names = 0
    for path in map(Path, kit):
        source = path.read_text(encoding="utf-8")
        problems += [f"{path.name}: {problem}" for problem in absent(source, trt)]
        names += len(dotted(source))
    for make in (trt.Builder, trt.Runtime):
        try:
            make(trt.Logger(trt.Logger.WARNING))
            problems.append(f"{make.__name__} without a library is no TypeError, which the kit counts on")
        except TypeError:
            continue
    if tuple(trt.Dims((-1, 8, 8, 3)))[1:] != (8, 8, 3):
        problems.append("a shape does not become a tuple")
    said = {"version": trt.__version__, "problems": problems, "classes": len(fakes), "names": names}
    # that the checks can fail at all
    control = [*absent("trt.BuilderFlag.FP16\nself.trt.Nothing", trt), *unfaithful(Wrong, trt.IBuilderConfig)]
    print(json.dumps(said | {"control": control}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # empty libraries cannot be taken down in order
