"""A private SLURM cluster on this machine: its controller and a few nodes in Linux namespaces of their own.

    python -m tests.slurm.cluster install        install Debian's packages (root, network)
    python -m tests.slurm.cluster run sinfo      start a cluster, run a command in it, stop it
    python -m tests.slurm.cluster run            the same with a shell

Nothing of it is seen from outside, and any number of clusters can run side by side: files, ports, processes and
host names are its own. The cluster has one mount, network, host name and process namespace, in which its folder is
mounted over /etc/slurm (where a nested srun looks, whatever its environment). Every node has a process namespace and
a host name of its own within, as on another machine. When the first process of a namespace is killed, or the
process that started the cluster ends in any way, the kernel kills all processes in it.

Nodes ``c1`` (partition ``cpu``, the default) and ``g1``, ``g2`` (partitions ``gpu``, ``urgent``; two GPUs each, which
are empty device files: SLURM hands them out, nothing computes on them). Jobs in ``urgent`` preempt those in ``gpu``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
ACCOUNTING_PACKAGES = ("slurmdbd", "mariadb-server")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "unshare", "nsenter")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db")
INSTALL = "python -m tests.slurm.cluster install"
#: Where daemons are found, also where the caller's PATH leaves them out.
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
HOME = "/etc/slurm"  # of the cluster, inside its namespace
#: Variables of the caller that lead SLURM's commands to another cluster, or change what they ask for and print.
SETTINGS = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SINFO_", "SCONTROL_", "SCANCEL_", "SACCT_")
INIT = str(Path(__file__).with_name("init.py"))
NODES = {"c1": "", "g1": "Gres=gpu:fake:2", "g2": "Gres=gpu:fake:2"}
CPUS, MEMORY = 2, 64000  # of a node, claimed

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost=control
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={home}/run/munge.socket
CredType=cred/munge
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool/%n
SlurmctldPidFile={home}/run/slurmctld.pid
SlurmdPidFile={home}/run/%n.pid
SlurmctldLogFile={home}/log/slurmctld.log
SlurmdLogFile={home}/log/%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
GresTypes=gpu
EnforcePartLimits=ALL
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=0,sched_min_interval=0,bf_interval=2,requeue_delay=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode={preemption}
SlurmctldTimeout=10
SlurmdTimeout=15
KillWait={kill_wait}
UnkillableStepTimeout=15
InactiveLimit=0
MinJobAge=3600
ReturnToService=2
JobRequeue=1
{accounting}
NodeName=DEFAULT CPUs={cpus} RealMemory={memory} State=UNKNOWN
{nodes}
PartitionName=DEFAULT MaxTime=2:00:00 DefaultTime=10:00 State=UP GraceTime={grace}
PartitionName=cpu Nodes=c1 Default={default}
PartitionName=gpu Nodes=g1,g2 PriorityTier=1
PartitionName=urgent Nodes=g1,g2 PriorityTier=10
"""

ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=control
AccountingStoragePass={home}/run/munge.socket
AccountingStorageTRES=gres/gpu"""

DATABASE_DAEMON = """\
AuthType=auth/munge
AuthInfo=socket={home}/run/munge.socket
DbdHost=control
SlurmUser=root
PidFile={home}/run/slurmdbd.pid
LogFile={home}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
"""


def missing(*, accounting: bool = False) -> str:
    """Why no cluster can be started here, with the remedy; empty if one can."""
    if os.geteuid() != 0:
        return "a private SLURM cluster needs root, for its namespaces"
    programs = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ())
    absent = [name for name in programs if shutil.which(name, path=PATH) is None]
    if absent:
        return f"no {', '.join(absent)} on this machine. On Debian or Ubuntu, as root: {INSTALL}"
    probe = subprocess.run(
        ["unshare", *Cluster.OUTER, "true"], capture_output=True, text=True, env={**os.environ, "PATH": PATH}
    )
    return f"namespaces are not allowed here: {probe.stderr.strip()}" if probe.returncode else ""


def version() -> str:
    """Version of the SLURM that is installed; its daemons tell it without a configuration."""
    program = str(shutil.which("slurmctld", path=PATH))
    return subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stdout.strip()


def install(*, accounting: bool = True) -> None:
    """Install Debian's packages where programs are missing, and keep their own services from starting.

    Raises CalledProcessError.
    """
    programs = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ())
    if all(shutil.which(name, path=PATH) for name in programs):
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    packages = PACKAGES + (ACCOUNTING_PACKAGES if accounting else ())
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
    quiet = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]
    subprocess.run([*quiet, *packages], check=True, env=environment, stdout=subprocess.DEVNULL)


def without_settings(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment (default: this process's) without settings of SLURM."""
    given = os.environ if environment is None else environment
    return {name: value for name, value in given.items() if not name.startswith(SETTINGS)}


def wait_for(what: str, condition: Callable[[], object], seconds: float = 600, every: float = 0.1) -> object:
    """Poll until a condition holds; → what it returned. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(every)
    return found


@dataclass(frozen=True)
class Job:
    """What squeue tells of a job, finished ones included."""

    id: str
    state: str
    partition: str
    nodes: str
    comment: str
    restarts: int
    minutes: int
    memory: int  # MB, of a node
    gres: str


def _job(*told: str) -> Job:
    """From a line of squeue: time as [HH:]MM:SS (partitions allow two hours), memory as a number of M."""
    *names, restarts, limit, memory, gres = told
    hours, minutes, _ = ["0", *limit.split(":")][-3:]
    return Job(*names, int(restarts), 60 * int(hours) + int(minutes), int(memory.removesuffix("M")), gres)


class Cluster:
    """A cluster below ``root``; started and stopped as a context manager.

    ``preemption`` is SLURM's PreemptMode; ``grace`` the seconds between SIGTERM and SIGKILL for a preempted job,
    ``kill_wait`` for a job at its time limit. ``default``: whether jobs that name no partition go to ``cpu``; else
    they are refused.
    """

    OUTER = ("--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
    INNER = ("--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")

    def __init__(
        self,
        root: Path,
        *,
        accounting: bool = False,
        preemption: str = "CANCEL",
        grace: int = 30,
        kill_wait: int = 30,
        default: bool = True,
    ) -> None:
        self.root, self.accounting = root, accounting
        self.settings = {"preemption": preemption, "grace": grace, "kill_wait": kill_wait}
        self.settings["default"] = "YES" if default else "NO"
        self.processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all daemons and wait until every node takes jobs. Raises TimeoutError with the end of the logs."""
        self._configure()
        entered = f"mount --bind {self.root} {HOME} && mount --bind {self.root}/hosts /etc/hosts && hostname control"
        prepare = f"{entered} && {sys.executable} {INIT} --loopback"
        if self.accounting:
            prepare += f" && mount -t tmpfs database {HOME}/database"
        self._spawn("init", ["unshare", *self.OUTER, sys.executable, INIT, "sh", "-c", f"{prepare} && touch {HOME}/up"])
        try:
            wait_for("namespaces", (self.root / "up").exists)
            key = f"--key-file={HOME}/munge.key --socket={HOME}/run/munge.socket --pid-file={HOME}/run/munged.pid"
            munged = f"munged --foreground --force {key} --log-file={HOME}/log/munged.log --seed-file={HOME}/munge.seed"
            self._spawn("munged", self._inside(munged.split()))
            wait_for("munge", lambda: self.succeeds("munge", "-S", f"{HOME}/run/munge.socket", "-n"))
            if self.accounting:
                self._start_accounting()
            self._spawn("slurmctld", self._inside(["slurmctld", "-D"]))
            for node in NODES:
                self._start_node(node)
            wait_for("slurmctld", lambda: self.succeeds("scontrol", "ping"))
            self.wait_for_nodes()
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.logs()}") from None

    def stop(self) -> None:
        """Kill every process of the cluster: daemons, job steps, jobs. Files stay."""
        init = self.processes.get("init")
        if init is not None:
            init.kill()
        for process in self.processes.values():
            process.wait()
        self.processes.clear()

    def run(
        self, *command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess:
        """Run a command on the cluster's login host."""
        inside, environment = self._inside(command, cwd), without_settings(env)
        return subprocess.run(
            inside, env=environment, capture_output=True, text=True, timeout=timeout, errors="replace"
        )

    def popen(
        self, *command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, **more: object
    ) -> subprocess.Popen:
        """Start a command on the cluster's login host."""
        return subprocess.Popen(self._inside(command, cwd), env=without_settings(env), **more)

    def succeeds(self, *command: str) -> bool:
        """Whether a command on the login host succeeds."""
        return self.run(*command).returncode == 0

    def output(self, *command: str) -> str:
        """What a command on the login host prints. Raises AssertionError where it fails."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def signal(self, process: subprocess.Popen, number: int) -> None:
        """Send a signal to a command that ``popen`` started, not to its children."""
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), number)

    def jobs(self) -> list[Job]:
        """All jobs of the cluster since it was started, the first one first."""
        lines = self.output("squeue", "-h", "--noconvert", "-t", "all", "-S", "i", "-O", self._columns()).splitlines()
        return [_job(*line.strip().split("\x1f")) for line in lines if line.strip()]

    def kill_node(self, node: str, *, noticed: bool = True) -> None:
        """SIGKILL slurmd, step managers and jobs of a node at once, as when its power fails.

        The controller notices after SlurmdTimeout, or at once where ``noticed``.
        """
        process = self.processes.pop(node)
        process.kill()
        process.wait()
        if noticed:
            self.output("scontrol", "update", f"nodename={node}", "state=down", "reason=killed")

    def revive(self, node: str) -> None:
        """Start a killed node again and wait until it takes jobs."""
        self._start_node(node)
        self.run("scontrol", "update", f"nodename={node}", "state=resume")
        self.wait_for_nodes()

    def cancel(self, *jobs: str) -> None:
        """scancel jobs, as their owner would."""
        self.output("scancel", *jobs)

    def submit(self, *options: str, command: str = "sleep 1000") -> str:
        """Submit a job of somebody else; → its id."""
        done = self.output("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={command}")
        return done.strip().split(";")[0]

    def wait_for_nodes(self) -> None:
        """Wait until every node that runs takes jobs."""
        nodes = sum(name in self.processes for name in NODES)
        up = ("sinfo", "-h", "-N", "-t", "idle,mix,alloc", "-o", "%N")
        wait_for("nodes", lambda: len(set(self.run(*up).stdout.split())) == nodes)

    def logs(self, lines: int = 15) -> str:
        """The last lines of every daemon's log."""
        parts = []
        for file in sorted((self.root / "log").iterdir()):
            parts += [f"--- {file.name}", *file.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(parts)

    @staticmethod
    def _columns() -> str:
        names = ("JobID", "State", "Partition", "NodeList", "Comment", "RestartCnt", "TimeLimit", "MinMemory")
        return ",".join([f"{name}:\x1f" for name in names] + ["tres-per-job:40"])

    def _inside(self, command: Sequence[str], cwd: Path | None = None) -> list[str]:
        """The command that runs another one in the cluster's namespaces, in a folder (default: this process's)."""
        where = ["--target", str(self._first_process()), f"--wdns={cwd or Path.cwd()}"]
        return ["nsenter", *where, "--mount", "--uts", "--net", "--pid", *command]

    def _first_process(self) -> int:
        """Process id of the cluster's init, the child of unshare."""
        outer = self.processes["init"].pid
        return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])

    def _spawn(self, name: str, command: Sequence[str]) -> None:
        """Start a daemon; its namespace ends when the pipe to this process closes, whatever became of this process."""
        environment = without_settings()
        environment["PATH"] = f"{PATH}:{os.environ.get('PATH', '')}"
        with (self.root / "log" / f"{name}.out").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def _start_node(self, node: str) -> None:
        program = f"hostname {node} && exec slurmd -D -N {node}"
        self._spawn(node, self._inside(["unshare", *self.INNER, sys.executable, INIT, "sh", "-c", program]))

    def _start_accounting(self) -> None:
        data, socket = f"{HOME}/database", f"{HOME}/run/mysql.sock"
        made = self.run(
            *f"mariadb-install-db --no-defaults --user=root --datadir={data} --skip-test-db".split(),
            "--auth-root-authentication-method=normal",
            timeout=300,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        daemon = f"mariadbd --no-defaults --user=root --datadir={data} --bind-address=127.0.0.1 --socket={socket}"
        options = "--innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0"
        self._spawn("mariadbd", self._inside([*daemon.split(), *options.split(), "--skip-name-resolve"]))
        client = ("mariadb", "--no-defaults", "-S", socket, "-uroot", "-e")
        user = "slurm@'127.0.0.1'"
        grant = f"create database slurm; create user {user} identified by 'slurm'; grant all on slurm.* to {user};"
        wait_for("mariadbd", lambda: self.succeeds(*client, "select 1"))
        self.output(*client, grant)
        self._spawn("slurmdbd", self._inside(["slurmdbd", "-D"]))
        wait_for("slurmdbd", lambda: self.succeeds("sacctmgr", "-n", "show", "cluster"))
        for what in ("cluster tests", "account lab cluster=tests", "user root account=lab cluster=tests"):
            self.output("sacctmgr", "-i", "-Q", "add", *what.split())

    def _configure(self) -> None:
        """Write the configuration; the folder is the cluster's /etc/slurm."""
        for name in ("run", "log", "state", "spool", "dev", "database", *(f"spool/{node}" for node in NODES)):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for index in range(2):
            os.mknod(self.root / "dev" / f"gpu{index}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # as /dev/null
        ports = {node: 6900 + index for index, node in enumerate(NODES)}
        described = [f"NodeName={n} NodeAddr=127.0.0.1 Port={ports[n]} {more}" for n, more in NODES.items()]
        accounting = ACCOUNTING if self.accounting else "AccountingStorageType=accounting_storage/none"
        text = CONFIGURATION.format(
            home=HOME,
            cpus=CPUS,
            memory=MEMORY,
            nodes="\n".join(described),
            accounting=accounting.format(home=HOME),
            **self.settings,
        )
        key = self.root / "munge.key"
        files = {
            "slurm.conf": text,
            "slurmdbd.conf": DATABASE_DAEMON.format(home=HOME),
            "gres.conf": f"AutoDetect=off\nNodeName=g[1-2] Name=gpu Type=fake File={HOME}/dev/gpu[0-1]\n",
            "cgroup.conf": "CgroupAutomount=no\n",
            "hosts": f"127.0.0.1 localhost control {' '.join(NODES)}\n",
        }
        for name, content in files.items():
            (self.root / name).write_text(content)
        (self.root / "slurmdbd.conf").chmod(0o600)
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.cluster", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    installing = commands.add_parser("install", help="install Debian's packages")
    installing.add_argument("--no-accounting", action="store_true", help="without the accounting database")
    running = commands.add_parser("run", help="start a cluster, run a command in it, stop it")
    running.add_argument("--accounting", action="store_true", help="with an accounting database (sacct)")
    running.add_argument("command", nargs=argparse.REMAINDER, help="default: a shell")
    arguments = parser.parse_args()
    if arguments.what == "install":
        install(accounting=not arguments.no_accounting)
        return 0
    if reason := missing(accounting=arguments.accounting):
        print(reason, file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as folder,
        Cluster(Path(folder), accounting=arguments.accounting) as cluster,
    ):
        return cluster.popen(*(arguments.command or [os.environ.get("SHELL", "sh")])).wait()


if __name__ == "__main__":
    sys.exit(main())
