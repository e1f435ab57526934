"""What travels: one more task to a device as a signed update, and two tasks of a pool from a server.

    python benchmarks/ship.py --pool <pool> --student <student> --data <folder> --out benchmarks/results/ship-<…>.json

update   bytes of a signed update that adds a task to an assembly of two, beside that task's stored weights and the
         whole student's graph; from the pool as it is, and from its float16 conversion; `apply` and `rollback`
remote   bytes and seconds of `kfdeploy assemble` from an S3 server on loopback (moto's), cold and warm, and from a
         folder

Times are medians of `--rounds` fresh processes each, one after another in turn.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

from scale import process, summary

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.update.diff import write_update
from kfdeploy.deploy.update.keys import keygen, sign
from kfdeploy.files import dump_line_json
from kfdeploy.measuring.rounds import describe_machine
from kfdeploy.pool.convert import store_half
from kfdeploy.pool.pool import Pool
from kfdeploy.writing import write_file

OLD, NEW = ["cat", "dog"], ["cat", "dog", "horse"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    student = Model.open(asked.student).graph.stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        rounded = store_half(Pool.open(asked.pool), work / "half", data=asked.data)
        pools = {"float32": Pool.open(asked.pool), "float16": rounded.pool}
        keygen(work / "update")
        updates = [update(kind, pool, student, work / kind, work / "update.key") for kind, pool in pools.items()]
        times = device(work / "float32", asked.rounds)
        remote = server(asked.pool, work / "server", asked.rounds)
    result = {
        "schema": 1, "kind": "ship", "machine": describe_machine(), "rounds": asked.rounds, "task": NEW[-1],
        "student_bytes": student, "updates": updates, "device": times, "remote": remote,
        "accuracy": {"float32": rounded.before.value, "float16": rounded.after.value, "images": rounded.after.images},
    }  # fmt: skip
    write_file(asked.out, dump_line_json(result))
    print(json.dumps({key: result[key] for key in ("updates", "device", "remote", "accuracy")}, indent=1))


def update(kind, pool, student, work, key):
    """Return the bytes of a signed update that adds a task."""
    old = assemble(pool, OLD, work / "device" / "assembly").path
    new = assemble(pool, NEW, work / "new" / "assembly").path
    write_update(old, new, work / "update.kfu")
    sign(work / "update.kfu", key)
    entry = pool.entry(pool.choose([NEW[-1]])[0])
    weights = pool.manifest["files"][entry["file"]]["bytes"]
    shipped = (work / "update.kfu").stat().st_size
    return {"pool": kind, "bytes": shipped, "weights": weights, "of_weights": round(shipped / weights, 4),
            "of_student": round(shipped / student, 4)}  # fmt: skip


def device(work, rounds):
    """Return the seconds and the peak of memory of `apply` and `rollback`, on a device that holds the key."""
    state = work / "state"
    (state / "keys").mkdir(parents=True)
    shutil.copy(work.parent / "update.pub", state / "keys")
    place, found = work / "device" / "assembly", {"apply": [], "rollback": []}
    for _ in range(rounds):
        found["apply"].append(process("apply", work / "update.kfu", place, "--state", state))
        found["rollback"].append(process("rollback", place))
    return {name: summary(each) for name, each in found.items()}


def server(pool, work, rounds):
    """Return what `kfdeploy assemble` takes from a folder and from S3, cold and warm."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "a",
                   "AWS_DEFAULT_REGION": "us-east-1", "KFDEPLOY_CACHE": str(work / "cache")}  # fmt: skip
    try:
        import s3fs

        s3fs.S3FileSystem().mkdir("bucket")
        process(*["pool", "push", pool, "s3://bucket/pool"])
        found = {"folder": [], "cold": [], "warm": []}
        for number in range(rounds):
            shutil.rmtree(work / "cache", ignore_errors=True)
            for name, place in (("folder", pool), ("cold", "s3://bucket/pool"), ("warm", "s3://bucket/pool")):
                out = work / f"{name}-{number}"
                found[name].append(process("assemble", "--pool", place, "--tasks", *OLD, "--out", out))
        opened = Pool.open("s3://bucket/pool")
        manifest = len(opened.manifest_bytes())
        files = sum(opened.manifest["files"][name]["bytes"] for name in opened.needs(opened.choose(OLD)))
    finally:
        moto.stop()
    travelled = {"folder": 0, "cold": manifest + files, "warm": manifest}
    return [{"pool": name, "bytes": travelled[name], **summary(each)} for name, each in found.items()]


if __name__ == "__main__":
    main()
