"""Where an embedded server keeps its things, and which user of the system it is."""

from __future__ import annotations

import json
import os
import pwd
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from fastedgy.embedded.binaries import CURE, Account, run_as
from fastedgy.errors import EmbeddedPostgresError

PORT = 5432  # only the name of the socket: nothing listens on TCP
LONGEST_SOCKET = 103  # bytes of a socket's path: the smallest limit (macOS; Linux has 107)
LONGEST_DATA = 900  # bytes of the data folder's path: Postgres has buffers of 1,024


class Places:
    """The folders of one embedded server.

    Usually everything is in `folder`. Where that cannot be (the path is too long for Postgres, or
    the server's user cannot enter it), `elsewhere.json` in it names what is used instead, and a
    link `owner` leads back from there: a copy of `folder` must not use the original's server.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()

    @property
    def home(self) -> Path:
        """What holds the data: `folder`, if that could be."""
        return self._elsewhere().get("home", self.folder)

    @property
    def data(self) -> Path:
        """Postgres' data folder."""
        return self.home / "postgres"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.data / "server.log"

    @property
    def sockets(self) -> Path:
        """The folder of the server's socket, closed to everybody but its user and root."""
        return self._elsewhere().get("sockets", self.home / "run")

    @property
    def socket(self) -> Path:
        """The server's socket."""
        return self.sockets / f".s.PGSQL.{PORT}"

    @property
    def url(self) -> str:
        """Where the server listens while it runs."""
        return f"postgresql://postgres@/postgres?host={quote(str(self.sockets))}&port={PORT}"

    @property
    def lock(self) -> Path:
        """The file that one process at a time holds to start or stop the server."""
        return self.folder / "lock"

    def owner(self) -> int:
        """The uid whose server this is: not always ours when we are root."""
        return self.folder.stat().st_uid

    def account(self) -> Account:
        """The user that the server runs as: the owner, or `nobody`, as Postgres refuses to be root.

        Raises EmbeddedPostgresError when the server is none of our business.
        """
        owner = self.owner()
        if os.geteuid() not in (0, owner):
            raise EmbeddedPostgresError(
                f"The embedded Postgres in {self.folder} belongs to {Account.of(owner).name}. Run "
                "the command as that user, or set FASTEDGY_DATA_DIR to a folder of your own, or "
                "DATABASE_URL to a server."
            )
        if owner != 0:
            return Account.of(owner)
        for name in ("nobody", "postgres"):
            with suppress(KeyError):
                return Account.of(pwd.getpwnam(name).pw_uid)
        raise EmbeddedPostgresError(
            f"Postgres does not run as root, and there is no user `nobody` to run it as. {CURE}"
        )

    def is_private(self) -> bool:
        """Whether a socket here can only be our server's: others can write to /tmp, too.

        False also where no socket can be: the folder was moved to a longer path, for instance.
        """
        if not _fits(self.socket):
            return False
        try:
            found = self.sockets.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return found.st_uid == self.account().uid and found.st_mode & 0o077 == 0

    def give(self, path: Path) -> None:
        """Let what root makes belong to the folder's owner."""
        if os.geteuid() == 0:
            os.chown(path, self.owner(), -1)

    def make_folder(self) -> None:
        """Make the folder, or take an empty one that is there."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if next(self.folder.iterdir(), None) is None:
            # Root's server runs as `nobody`, which must get through to its own folder in here.
            self.folder.chmod(0o711 if self.owner() == 0 else 0o700)
            ignore = self.folder / ".gitignore"
            ignore.write_text("*\n")
            self.give(ignore)

    def find_home(self, account: Account) -> None:
        """Use another folder for the data where Postgres could not live in this one."""
        if self.data.exists() or self._elsewhere().get("home", self.folder / "none").is_dir():
            return
        place = str(self.folder)
        fits = len(os.fsencode(place)) <= LONGEST_DATA and place.isprintable()
        if fits and run_as(account, ["/bin/sh", "-c", 'test -x "$0/."', place]).returncode == 0:
            return
        root = os.geteuid() == 0
        personal = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        base = Path("/var/lib" if root else personal) / "fastedgy"
        base.mkdir(mode=0o711 if root else 0o700, parents=True, exist_ok=True)
        home = Path(tempfile.mkdtemp(dir=base))
        home.chmod(0o711 if root else 0o700)
        self._use("home", home)

    def find_sockets(self, account: Account) -> None:
        """Make a folder that only the server's user can enter, with a path short enough."""
        if self.is_private():
            return
        run = self.home / "run"
        if _fits(run / self.socket.name):
            run.mkdir(mode=0o700, exist_ok=True)
            run.chmod(0o700)
        else:
            shared = tempfile.gettempdir()
            base = shared if len(os.fsencode(shared)) < 60 else "/tmp"
            run = Path(tempfile.mkdtemp(prefix="fastedgy-", dir=base))
            self._use("sockets", run)
        os.chown(run, account.uid, account.gid)

    def _elsewhere(self) -> dict[str, Path]:
        try:
            places = json.loads((self.folder / "elsewhere.json").read_bytes())
        except FileNotFoundError:
            return {}
        return {key: Path(place) for key, place in places.items() if self._is_ours(Path(place))}

    def _is_ours(self, place: Path) -> bool:
        try:
            owner = (place / "owner").readlink()
        except OSError:
            return True  # gone, or not ours to look at: whoever uses it finds out
        return owner == self.folder or not owner.exists()

    def _use(self, key: str, place: Path) -> None:
        (place / "owner").symlink_to(self.folder)
        names = {name: str(other) for name, other in self._elsewhere().items()}
        draft = self.folder / "elsewhere.new"
        draft.write_text(json.dumps(names | {key: str(place)}))
        self.give(draft)
        draft.replace(self.folder / "elsewhere.json")


def _fits(socket: Path) -> bool:
    # Drivers cut a host at commas and colons; a space is as far as it is safe to go.
    plain = re.fullmatch(r"[\w./ -]+", str(socket), re.ASCII)
    return plain is not None and len(os.fsencode(socket)) <= LONGEST_SOCKET
