"""A cluster on this machine: HDFS with two DataNodes, YARN, and standalone Spark with two workers, all on 127.0.0.1.

    python -m cluster up | status | down [--wipe]        make cluster-up, make cluster-down

Real daemons with their data in a folder of its own (--dir, default .cluster). `up` starts what does not run: after a
reboot, or `kill -9` of everything, it comes up with its data. `down` stops exactly these processes; with `--wipe` it
removes the data too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

from cluster import commands, daemons, jars
from cluster.daemons import Daemon, Process
from penstock import command, store
from penstock.console import Console
from penstock.errors import PenstockError

HOST = "127.0.0.1"
UP_TIMEOUT_S = 120.0
NUM_DATANODES = NUM_WORKERS = 2
PORTS = (
    *("namenode", "namenode_http"),
    *("rm", "rm_scheduler", "rm_tracker", "rm_admin", "rm_http", "nm_localizer", "nm_http"),
    *("master", "master_http"),
)
SERVICES = ("hdfs", "yarn", "spark")


@dataclass(frozen=True)
class Cluster:
    """A cluster's folder, its ports and its processes, as `cluster.json` there keeps them."""

    folder: Path
    ports: Mapping[str, int]
    processes: Mapping[str, Process]

    @property
    def hdfs_url(self) -> str:
        return f"hdfs://{HOST}:{self.ports['namenode']}"

    @property
    def spark_url(self) -> str:
        return f"spark://{HOST}:{self.ports['master']}"

    @property
    def conf(self) -> Path:
        """HADOOP_CONF_DIR for clients."""
        return self.folder / "conf"

    def is_alive(self, name: str) -> bool:
        return name in self.processes and self.processes[name].is_alive


def up(folder: Path, services: Sequence[str], console: Console) -> Cluster:
    """Starts those daemons of the services that do not run, and waits until they are at work.

    Raises: PenstockError where one does not come up; the others stay.
    """
    cluster = load(folder)
    wanted = [name for service in services for name in names(service)]
    if all(cluster.is_alive(name) for name in wanted):
        return cluster
    class_path = jars.fetch()
    if not any(process.is_alive for process in cluster.processes.values()):
        ports = {name: port for name, port in cluster.ports.items() if daemons.is_free(port)}
        cluster = Cluster(folder, {name: ports.get(name) or daemons.free_port() for name in PORTS}, {})
    (folder / "data" / "tmp").mkdir(parents=True, exist_ok=True)
    _write_client_conf(cluster)
    all_daemons = {daemon.name: daemon for daemon in _daemons(cluster, class_path)}
    if "namenode" in wanted and not (folder / "data" / "namenode" / "current" / "VERSION").exists():
        with console.step("format HDFS"):
            _format(all_daemons["namenode"], folder)
    for service in services:
        with console.step(f"start {service}"):
            for name in names(service):
                if not cluster.is_alive(name):
                    started = daemons.start(all_daemons[name], folder / "logs")
                    cluster = Cluster(folder, cluster.ports, {**cluster.processes, name: started})
                    _save(cluster)
            _wait_until_up(cluster, service)
    return cluster


def down(folder: Path) -> int:
    """Stops the cluster's processes, and what they started. Returns how many there were."""
    processes = [process for process in load(folder).processes.values() if process.is_alive]
    daemons.stop(processes[::-1])
    left = list(daemons.below(folder / "data"))
    daemons.stop(left)
    return len(processes) + len(left)


def names(service: str) -> list[str]:
    return {
        "hdfs": ["namenode", *(f"datanode-{i}" for i in range(NUM_DATANODES))],
        "yarn": ["resourcemanager", "nodemanager"],
        "spark": ["master", *(f"worker-{i}" for i in range(NUM_WORKERS))],
    }[service]


def load(folder: Path) -> Cluster:
    try:
        found = json.loads((folder / "cluster.json").read_text())
    except FileNotFoundError:
        return Cluster(folder, {}, {})
    return Cluster(folder, found["ports"], {name: Process(**value) for name, value in found["processes"].items()})


def _save(cluster: Cluster) -> None:
    processes = {name: asdict(process) for name, process in cluster.processes.items()}
    described = {"ports": dict(cluster.ports), "processes": processes}
    store.replace(cluster.folder / "cluster.json", json.dumps(described, indent=1).encode())


def _daemons(cluster: Cluster, class_path: Sequence[Path]) -> list[Daemon]:
    env, data, ports = environment(cluster), cluster.folder / "data", cluster.ports

    def hadoop(name: str, **more: str) -> Daemon:
        return Daemon(name, commands.hadoop(name.partition("-")[0], class_path, data / "tmp"), {**env, **more})

    def spark(name: str, *arguments: object) -> Daemon:
        return Daemon(name, commands.spark(name.partition("-")[0], HOST, *arguments), env)

    return [
        hadoop("namenode"),
        *(hadoop(f"datanode-{i}", DATANODE=f"datanode-{i}") for i in range(NUM_DATANODES)),
        hadoop("resourcemanager"),
        hadoop("nodemanager"),
        spark("master", "--port", ports["master"], "--webui-port", ports["master_http"]),
        *(
            spark(
                *(f"worker-{i}", cluster.spark_url, "--webui-port", 0),
                *("--cores", 1, "--memory", "2g", "-d", data / f"worker-{i}"),
            )
            for i in range(NUM_WORKERS)
        ),
    ]


def environment(cluster: Cluster) -> dict[str, str]:
    """What the daemons' configuration in conf/ leaves open, and what Spark's scripts ask for."""
    ports = {name: f"{HOST}:{port}" for name, port in cluster.ports.items()}
    return {
        "CLUSTER_DATA": str(cluster.folder / "data"),
        "BIND": HOST,
        "NAMENODE": ports["namenode"],
        "NAMENODE_HTTP": ports["namenode_http"],
        **dict.fromkeys(("DATANODE_BIND", "DATANODE_HTTP", "DATANODE_IPC"), f"{HOST}:0"),
        "RESOURCEMANAGER_HOST": HOST,
        "NODEMANAGER_HOST": HOST,
        "RESOURCEMANAGER": ports["rm"],
        **{name.upper(): ports[name] for name in ("rm_scheduler", "rm_tracker", "rm_admin", "rm_http")},
        **{name.upper(): str(cluster.ports[name]) for name in ("nm_localizer", "nm_http")},
        "HADOOP_CONF_DIR": str(cluster.conf),
        "SPARK_LOCAL_IP": HOST,
        "SPARK_DAEMON_JAVA_OPTS": f'-Djava.io.tmpdir="{cluster.folder / "data" / "tmp"}"',
        **commands.spark_environment(),
    }


def _write_client_conf(cluster: Cluster) -> None:
    """conf/ with its variables filled in: clients have not the daemons' environment."""
    cluster.conf.mkdir(parents=True, exist_ok=True)
    given = environment(cluster)
    for path in commands.CONF.glob("*.xml"):
        filled = re.sub(r"\$\{env\.(\w+):-([^}]*)\}", lambda found: given.get(found[1], found[2]), path.read_text())
        store.replace(cluster.conf / path.name, filled.encode())


def _format(namenode: Daemon, folder: Path) -> None:
    done = subprocess.run(
        [*namenode.command, "-format", "-nonInteractive"],
        env={**os.environ, **namenode.environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise PenstockError(f"HDFS cannot be formatted in {folder}: {done.stderr.strip()[-500:]}")


def _wait_until_up(cluster: Cluster, service: str) -> None:
    """Raises: PenstockError where a daemon ended, or is not at work after UP_TIMEOUT_S."""
    until = time.monotonic() + UP_TIMEOUT_S
    while not AT_WORK[service](cluster):
        ended = [name for name in names(service) if not cluster.is_alive(name)]
        if ended or time.monotonic() > until:
            what = f"{ended[0]} has ended" if ended else f"{service} is not at work after {UP_TIMEOUT_S:.0f} s"
            raise PenstockError(f"{what}; look at {cluster.folder / 'logs'}")
        time.sleep(0.25)


def _answer(port: int, path: str) -> dict[str, Any] | None:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=5) as answer:
            return dict(json.load(answer))
    except (OSError, ValueError):
        return None


def _hdfs_is_at_work(cluster: Cluster) -> bool:
    """A DataNode that was killed counts as live for some seconds: so their ports are asked too."""
    found = _answer(cluster.ports["namenode_http"], "/jmx?qry=Hadoop:service=NameNode,name=NameNodeInfo")
    if not found or not found["beans"] or found["beans"][0]["Safemode"]:
        return False
    nodes = json.loads(found["beans"][0]["LiveNodes"]).values()
    return len(nodes) == NUM_DATANODES and all(_listens(node["xferaddr"]) for node in nodes)


def _listens(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def _yarn_is_at_work(cluster: Cluster) -> bool:
    found = _answer(cluster.ports["rm_http"], "/ws/v1/cluster/metrics")
    return bool(found and found["clusterMetrics"]["activeNodes"] == 1)


def _spark_is_at_work(cluster: Cluster) -> bool:
    found = _answer(cluster.ports["master_http"], "/json/")
    return bool(found and found["aliveworkers"] == NUM_WORKERS)


AT_WORK: Mapping[str, Callable[[Cluster], bool]] = {
    "hdfs": _hdfs_is_at_work,
    "yarn": _yarn_is_at_work,
    "spark": _spark_is_at_work,
}


def tell(cluster: Cluster, console: Console) -> None:
    rows: list[list[object]] = [
        [name, f"process {cluster.processes[name].pid}" if cluster.is_alive(name) else "not running"]
        for service in SERVICES
        for name in names(service)
    ]
    console.table(rows)
    if not cluster.ports:
        return
    web = {"HDFS": "namenode_http", "YARN": "rm_http", "Spark": "master_http"}
    pages = [f"{name} http://{HOST}:{cluster.ports[port]}" for name, port in web.items()]
    console.say(f"HDFS   {cluster.hdfs_url}")
    console.say(f"YARN   export HADOOP_CONF_DIR={cluster.conf}   and --master yarn")
    console.say(f"Spark  --master {cluster.spark_url}")
    console.say(f"Pages  {', '.join(pages)}")
    console.say(f"Logs   {cluster.folder / 'logs'}")


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    folder = Path(arguments.dir).expanduser().absolute()
    match arguments.action:
        case "up":
            services = arguments.services.split(",")
            if unknown := [name for name in services if name not in SERVICES]:
                raise PenstockError(f"--services: no {unknown[0]!r}; there are {', '.join(SERVICES)}")
            wanted = [name for service in services for name in names(service)]
            was_up = all(load(folder).is_alive(name) for name in wanted)
            cluster = up(folder, services, console)
            console.say("The cluster was up." if was_up else "The cluster is up.")
        case "down":
            num_stopped = down(folder)
            console.say(f"Stopped {num_stopped} processes." if num_stopped else "No process of this cluster runs.")
            if arguments.wipe and folder.exists():
                rmtree(folder)
            elif folder.exists():
                console.say(f"Its data stays in {folder}; down --wipe removes it.")
            return {"stopped": num_stopped}
        case _:
            cluster = load(folder)
    tell(cluster, console)
    running = {name: cluster.is_alive(name) for service in SERVICES for name in names(service)}
    return {"running": running, "ports": dict(cluster.ports), "conf": str(cluster.conf)}


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("cluster", __doc__ or "", "python -m cluster up --services hdfs")
    made.prog = "python -m cluster"
    made.add_argument("action", choices=["up", "status", "down"])
    made.add_argument("--dir", default=".cluster", help="the cluster's folder; default: .cluster")
    made.add_argument("--services", default=",".join(SERVICES), help="with commas, of hdfs, yarn, spark; default: all")
    made.add_argument("--wipe", action="store_true", help="down: remove the folder with all data")
    return command.execute(made.parse_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
