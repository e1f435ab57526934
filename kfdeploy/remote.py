"""Benchmarking on a device over ssh: artifacts and their kits go there, bench.py measures, the numbers come back.

The system's own ssh does the talking, with its configuration, keys and known hosts, and may never ask for anything.
"""

import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import IO, Any, get_args

from kfdeploy.artifact import Artifact
from kfdeploy.data.images import EXTENSIONS
from kfdeploy.errors import DataError, PoolError, RemoteError, UnsupportedError
from kfdeploy.files import SCHEMA
from kfdeploy.kits import write_kit
from kfdeploy.merge import fault
from kfdeploy.ssh import MARK, Connection, parse_address
from kfdeploy.targets import TARGETS
from kfdeploy.targets.base import Scenario
