"""A one-node Slurm with fake GPUs, as root, without systemd or cgroups.

    python tests/cluster/one_node.py start [--accounting]
    python tests/cluster/one_node.py stop

Needs the packages in PACKAGES. The state is in a folder of its own; /etc/slurm is linked to it while the cluster is up,
as the Slurm plugin does not pass SLURM_CONF on to its jobs.
"""

import argparse
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PACKAGES = ["slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge"]
ACCOUNTING_PACKAGES = ["slurmdbd", "mariadb-server"]
GPUS = 4
ACCOUNTING = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=26819
AccountingStorageEnforce=associations"""
SLURMDBD = """AuthType=auth/munge
DbdHost=localhost
DbdPort=26819
SlurmUser=root
PidFile={state}/slurmdbd.pid
LogFile={state}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageUser=root
"""


def run(*command: str, check: bool = True, **options) -> str:
    """The output of a command; raises with what it said when it fails."""
    answer = subprocess.run(command, capture_output=True, text=True, **options)
    if check and answer.returncode:
        raise RuntimeError(f"{' '.join(command)}: {answer.stdout}{answer.stderr}")
    return answer.stdout


def install(accounting: bool) -> None:
    """Debian's packages, where they are missing; services that they would start stay down."""
    wanted = PACKAGES + (ACCOUNTING_PACKAGES if accounting else [])
    known = run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Package}\n", check=False).splitlines()
    missing = [name for name in wanted if f"ii {name}" not in known]
    if missing:
        run("apt-get", "-qq", "update")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        run("apt-get", "-qq", "install", "-y", "--no-install-recommends", *missing, env=environment)


class Cluster:
    """The daemons, and what the tests do to them."""

    def __init__(self, state: Path | None = None, accounting: bool = False):
        self.state = state or Path(tempfile.gettempdir()) / "cft-slurm"
        self.accounting = accounting
        self.host = socket.gethostname().split(".")[0]

    def start(self) -> None:
        """Start everything from nothing; jobs of an earlier life are forgotten."""
        install(self.accounting)
        self.stop()
        shutil.rmtree(self.state, ignore_errors=True)
        for name in ("controller", "node", "gpus"):
            (self.state / name).mkdir(parents=True)
        self._configure()
        self._munge()
        if self.accounting:
            self._database()
        self.start_controller()
        run("slurmd", "-N", self.host)
        self.wait(lambda: "idle" in self.node_state(), "the node to be idle")

    def _configure(self) -> None:
        for number in range(GPUS):
            (self.state / "gpus" / f"nvidia{number}").symlink_to("/dev/null")
        gres = f"Name=gpu File={self.state}/gpus/nvidia[0-{GPUS - 1}] Flags=nvidia_gpu_env\n"
        template = Path(__file__).with_name("slurm.conf").read_text()
        accounting = ACCOUNTING if self.accounting else "AccountingStorageType=accounting_storage/none"
        (self.state / "gres.conf").write_text(gres)
        (self.state / "slurm.conf").write_text(
            template.format(host=self.host, state=self.state, gpus=GPUS, accounting=accounting)
        )
        (self.state / "slurmdbd.conf").write_text(SLURMDBD.format(state=self.state))
        (self.state / "slurmdbd.conf").chmod(0o600)
        Path("/etc/slurm").mkdir(exist_ok=True)
        for name in ("slurm.conf", "gres.conf", "slurmdbd.conf"):
            link = Path("/etc/slurm") / name
            if link.exists() and not link.is_symlink():
                raise RuntimeError(f"{link} belongs to a real Slurm; not touching it")
            link.unlink(missing_ok=True)
            link.symlink_to(self.state / name)

    def _munge(self) -> None:
        key = self.state / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        Path("/run/munge").mkdir(exist_ok=True)
        run("munged", "--force", f"--key-file={key}", f"--pid-file={self.state}/munged.pid",
            f"--log-file={self.state}/munged.log", f"--seed-file={self.state}/munged.seed")  # fmt: skip

    def _database(self) -> None:
        data, sock = self.state / "database", self.state / "database.sock"
        run("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db",
            "--auth-root-authentication-method=normal")  # fmt: skip
        subprocess.Popen(
            ["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={sock}", "--skip-networking",
             f"--pid-file={self.state}/mariadbd.pid", "--innodb-lock-wait-timeout=900"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self.state / "mariadbd.log").open("w"),
            start_new_session=True,
        )  # fmt: skip
        self.wait(lambda: run("mariadb-admin", "--no-defaults", f"--socket={sock}", "ping", check=False), "MariaDB")
        run("slurmdbd", env=os.environ | {"MYSQL_UNIX_PORT": str(sock)})
        self.wait(lambda: not subprocess.call(["sacctmgr", "-n", "list", "cluster"], stdout=-3, stderr=-3), "slurmdbd")
        for words in (["cluster", "test"], ["account", "paper"], ["user", "root", "account=paper"]):
            run("sacctmgr", "-iQ", "add", *words)

    def start_controller(self) -> None:
        subprocess.run(["slurmctld"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop_controller(self) -> None:
        self._end("slurmctld")

    def node_state(self) -> str:
        return run("sinfo", "-h", "-N", "-o", "%T", check=False)

    def set_node(self, state: str) -> None:
        run("scontrol", "update", f"NodeName={self.host}", f"State={state}", "Reason=test")

    def jobs(self, *states: str) -> list[tuple[str, str, str]]:
        """(id, state, comment) of the jobs that Slurm knows, ended ones too, of some states or all."""
        lines = run("squeue", "-h", "-t", ",".join(states) or "all", "-o", "%i|%T|%k").splitlines()
        return sorted(tuple(line.split("|", 2)) for line in lines)

    def wait(self, condition, what: str, seconds: float = 60):
        """What `condition` returns once it is true; raises after so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if answer := condition():
                return answer
            time.sleep(0.1)
        raise TimeoutError(f"waited {seconds} s for {what}")

    def stop(self) -> None:
        """Cancel what runs and end the daemons."""
        if (self.state / "slurmctld.pid").exists():
            run("scancel", "--user=root", check=False)
        for name in ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self._end(name)
        for link in Path("/etc/slurm").glob("*.conf"):
            if link.is_symlink() and str(self.state) in os.readlink(link):
                link.unlink(missing_ok=True)  # another stop may be at it

    def _end(self, name: str) -> None:
        file = self.state / f"{name}.pid"
        try:
            process = int(file.read_text())
            if Path(f"/proc/{process}/comm").read_text().strip() == name:
                os.kill(process, 15)
                self.wait(lambda: not Path(f"/proc/{process}").exists(), f"{name} to end", 20)
        except (OSError, ValueError):
            return  # it is not running
        file.unlink(missing_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["start", "stop"])
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB")
    chosen = parser.parse_args()
    getattr(Cluster(accounting=chosen.accounting), chosen.what)()
    print(run("sinfo") if chosen.what == "start" else "stopped")
