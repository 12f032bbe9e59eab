"""Connecting to a Ray cluster, or starting one on this machine, quietly and offline."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

from uertool.engine.order import Resources, Room
from uertool.engine.storage.files import require_pyarrow
from uertool.errors import UertoolError, UsageError, import_extra
from uertool.io.stderr import silenced_stderr

#: Objects in Ray's store are messages of some hundred bytes; the least that Ray accepts is enough.
_STORE_BYTES = 80 << 20
#: Ray adds some 80 characters, and the path of a socket may have 107.
_LONGEST_FOLDER = 20
_PATIENCE = 5.0  # seconds that a cluster gets to answer


def import_ray() -> Any:
    """Ray with Ray Data.

    Raises:
        MissingExtraError: they are not installed.
    """
    require_pyarrow()
    # Ray reads these when it is imported or started.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # or it warns of what Ray Data does
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import_extra("ray.data", "ray", "`engine` ray", "ray")
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[Any]:
    """Ray, connected to a cluster while the block runs.

    A connection that is there already is used and left as it is. A cluster that is started here
    ends here.

    Args:
        address: "local" starts one on this machine, "auto" finds the one that runs here, HOST:PORT
            is that of a head node. None is RAY_ADDRESS, or "local" without it.

    Raises:
        MissingExtraError: Ray is not installed.
        UertoolError: no cluster answers.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with contextlib.ExitStack() as stack:
        if address == "local":
            settings["include_dashboard"] = False
            # Nobody else on this machine or network may reach it or read its files. Ray makes its
            # own folder accessible for everybody, so that is within a private one.
            settings["_temp_dir"] = f"{stack.enter_context(_private_folder())}/r"
            stack.enter_context(_on_loopback(ray))
            settings["object_store_memory"] = _STORE_BYTES
        else:
            _require_answer(address)
        try:
            with silenced_stderr():  # what Ray's C++ side says of its own start
                ray.init(address=address, **settings)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise UertoolError(
                f"Ray cannot be reached at {address}: {str(error).splitlines()[0]}",
                "Start a cluster with 'ray start --head', or use `ray_address` local.",
            ) from None
        stack.callback(ray.shutdown)
        yield ray


@contextlib.contextmanager
def _on_loopback(ray: Any) -> Iterator[None]:
    """Let a cluster that is started here listen on 127.0.0.1 only, as Ray does on macOS."""
    constants = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _private_folder() -> contextlib.AbstractContextManager[str]:
    """A folder that only this user can read, with a path short enough for Ray's sockets."""
    folder = tempfile.gettempdir()
    if len(folder) > _LONGEST_FOLDER and os.access("/tmp", os.W_OK):
        folder = "/tmp"
    return tempfile.TemporaryDirectory(prefix="ray-", dir=folder, ignore_cleanup_errors=True)


def _require_answer(address: str) -> None:
    """Ray waits long for a cluster that is not there; a closed port is known at once."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not (colon and port.isdecimal() and host):
        raise UsageError(
            f"Invalid `ray_address`: {address} (must be auto, local, or HOST:PORT of a head node).",
            "'ray start --head' prints it.",
        )
    try:
        with socket.create_connection((host, int(port)), timeout=_PATIENCE):
            return
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no answer"
        raise UertoolError(
            f"No Ray cluster answers at {address}: {reason}.",
            "Check the address with 'ray status', or use `ray_address` local.",
        ) from None


def find_room(ray: Any, wanted: Resources, blocks: int) -> Room:
    """How many workers a cluster has room for, at most the given number and the number of blocks.

    Raises:
        UertoolError: not one of them fits.
    """
    total = ray.cluster_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = wanted.gpus
    if gpus is None:
        gpus = 1.0 if total.get("GPU", 0) >= 1 else 0.0
    fits = sum(_fitting(node, wanted.cpus, gpus) for node in nodes)
    if fits == 0:
        raise UertoolError(
            f"No node of the cluster has {wanted.cpus:g} CPUs and {gpus:g} GPUs for a worker: the "
            f"largest has {max((node.get('CPU', 0) for node in nodes), default=0):g} CPUs and "
            f"{max((node.get('GPU', 0) for node in nodes), default=0):g} GPUs.",
            "Ask for less, see `cpus_per_actor` and `gpus_per_actor`.",
        )
    actors = min(wanted.actors or fits, max(blocks, 1))
    notice = None
    if actors > fits:
        notice = (
            f"The cluster has room for {fits} of {actors} workers with {wanted.cpus:g} CPUs and "
            f"{gpus:g} GPUs; the others start when there is more."
        )
    return Room(actors, wanted.cpus, gpus, len(nodes), notice)


def _fitting(node: dict[str, float], cpus: float, gpus: float) -> int:
    rooms = [node.get("CPU", 0.0) / cpus]
    if gpus:
        rooms.append(node.get("GPU", 0.0) / gpus)
    return int(min(rooms) + 1e-9)
