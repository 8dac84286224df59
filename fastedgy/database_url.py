"""A database URL in any usual form, taken apart and put together in one."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

from fastedgy.errors import ConfigurationError

EXAMPLE = "It looks like postgresql://user:password@host:5432/name."
SCHEME = re.compile(r"(?:jdbc:)?postgres(?:ql)?(?:\+\w+)?$", re.IGNORECASE)
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# Options of other drivers that mean nothing here. asyncpg would send each to the server, which
# refuses the connection because of it.
DROPPED = {
    "channel_binding", "client_encoding", "connect_timeout", "connection_limit", "gssencmode",
    "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "max_overflow",
    "pgbouncer", "pool_recycle", "pool_size", "pool_timeout", "prepared_statement_cache_size",
    "require_auth", "sslcompression", "sslsni", "statement_cache_size", "tcp_user_timeout",
}  # fmt: skip
RENAMED = {"fallback_application_name": "application_name", "schema": "search_path"}


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """The parts of a database URL. An absent part is asyncpg's to choose, as libpq would."""

    hosts: tuple[tuple[str, int | None], ...] = ()
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    name: str | None = None
    options: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """In the one form that asyncpg, psql and we understand."""
        return self.write("postgresql")

    @property
    def socket_folder(self) -> str | None:
        """The folder of the unix socket, where the server is reached by one."""
        folders = [host for host, _ in self.hosts if host.startswith("/")]
        return folders[0] if folders else None

    def write(self, scheme: str, *, options: bool = True) -> str:
        """The URL under another scheme; without its options, and a socket's folder is one."""
        login = quote(self.user, safe="") if self.user is not None else ""
        if self.password is not None:
            login += f":{quote(self.password, safe='')}"
        shown = [] if self.socket_folder else self.hosts
        places = ",".join(_place(host, port) for host, port in shown)
        query = {}
        if self.socket_folder:
            query["host"] = ",".join(host for host, _ in self.hosts)
            if any(port for _, port in self.hosts):
                query["port"] = ",".join(str(port or 5432) for _, port in self.hosts)
        query |= self.options
        text = "&".join(f"{quote(key, safe='')}={quote(query[key], safe='/')}" for key in query)
        return (
            f"{scheme}://{login}{'@' if login else ''}{places}/{quote(self.name or '', safe='')}"
            f"{'?' if text and options else ''}{text if options else ''}"
        )

    def named(self, name: str) -> DatabaseAddress:
        """Another database on the same server."""
        return replace(self, name=name)

    def __str__(self) -> str:
        """For people, without the password: `shop at localhost:5432 (user ada)`."""
        places = ", ".join(_place(host, port or 5432) for host, port in self.hosts)
        where = self.socket_folder or places or "the default address"
        user = f" (user {self.user})" if self.user else ""
        return f"{self.name or 'the default database'} at {where}{user}"


def parse_url(url: str) -> DatabaseAddress:
    """Take a URL (or libpq's `host=… dbname=…`) apart.

    Passwords with characters that should have been escaped are understood where there is only one
    way to. Raises ConfigurationError, which never shows the password.
    """
    text = url.strip()
    if text[:1] in ("'", '"') and text[:1] == text[-1:]:
        text = text[1:-1].strip()  # as files for `docker --env-file` leave it
    scheme, separator, rest = text.partition("://")
    if not separator and re.match(r"\w+\s*=", text):
        return _from_parts(None, "", "", _keywords(text))
    if not separator or not SCHEME.match(scheme):
        said = f"begins with {scheme + '://'!r}" if separator else "is not a URL"
        raise ConfigurationError(f"DATABASE_URL {said}, but must name a Postgres. {EXAMPLE}")
    login, rest = _split_login(rest)
    before, _, query = rest.partition("?")
    places, _, name = before.partition("/")
    return _from_parts(login, places, name, _options(query))


def _split_login(rest: str) -> tuple[str | None, str]:
    """Cut at the last @ that is not in the options: passwords are often left unescaped."""
    at = len(rest)
    while (at := rest.rfind("@", 0, at)) >= 0:
        if not re.search(r"/[^/?@]*\?\w+=", rest[:at]):
            return rest[:at], rest[at + 1 :]
    return None, rest


def _options(query: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return {unquote(key): unquote(value) for key, _, value in pairs}


def _keywords(text: str) -> dict[str, str]:
    try:
        pairs = [word.partition("=") for word in shlex.split(re.sub(r"\s*=\s*", "=", text))]
    except ValueError:
        raise ConfigurationError(f"DATABASE_URL has an open quote. {EXAMPLE}") from None
    return {key: value for key, _, value in pairs}


def _from_parts(
    login: str | None, places: str, name: str, options: dict[str, str]
) -> DatabaseAddress:
    user, colon, password = (login or "").partition(":")
    given = dict(options)
    hosts, ports = given.pop("host", ""), given.pop("port", "")
    given.pop("hostaddr", None)
    user = unquote(user) or given.pop("user", "")
    secret = unquote(password) if colon else given.pop("password", None)
    named = [given.pop(key, "") for key in ("dbname", "database")]
    return DatabaseAddress(
        hosts=_hosts(unquote(places) or hosts, ports),
        user=user or None,
        password=secret,
        name=_database_name(unquote(name) or named[0] or named[1]),
        options=_known(given),
    )


def _hosts(places: str, ports: str) -> tuple[tuple[str, int | None], ...]:
    """`a:1,[::1]:2` or `/folder`, and ports given beside them."""
    hosts = []
    for place in filter(None, places.split(",")):
        match = re.fullmatch(r"(/.*)|\[([0-9a-fA-F:.]+(?:%[\w.]+)?)\](?::(.*))?", place)
        if match:
            host, port = match[1] or match[2], match[3]
        elif place.count(":") > 1:
            host, port = place, None  # an IPv6 address without its brackets
        else:
            host, _, port = place.partition(":")
        if not re.fullmatch(r"/.*|[\w.-]+|[0-9a-fA-F:.]+(%[\w.]+)?", host):
            raise ConfigurationError(
                f"DATABASE_URL names the host {host!r}, which no host can be called. {EXAMPLE}"
            )
        hosts.append((host, _port(port) if port else None))
    beside = [_port(port) for port in ports.split(",") if port]
    if not hosts and beside:
        hosts = [("localhost", None)]
    if len(beside) not in (0, 1, len(hosts)):
        raise ConfigurationError(
            f"DATABASE_URL names {len(hosts)} hosts and {len(beside)} ports. {EXAMPLE}"
        )
    if beside:
        each = beside * len(hosts) if len(beside) == 1 else beside
        hosts = [(host, port or other) for (host, port), other in zip(hosts, each, strict=True)]
    return tuple(hosts)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ConfigurationError(
            f"DATABASE_URL names the port {text!r}, which is not a number from 1 to 65535. "
            "In a password, @ : / ? # must be escaped, like %40 for @."
        )
    return int(text)


def _database_name(name: str) -> str | None:
    if "\0" in name or "/" in name or len(name.encode()) > 63:
        raise ConfigurationError(
            f"DATABASE_URL names the database {name!r}, which no database can be called. {EXAMPLE}"
        )
    return name or None


def _known(options: dict[str, str]) -> dict[str, str]:
    """The options that asyncpg or the server understand, under the names that they have there."""
    known: dict[str, str] = {}
    for key, value in options.items():
        if key in ("ssl", "tls"):
            key, value = "sslmode", {"true": "require", "false": "disable"}.get(value, value)
        if key == "sslmode" and value not in SSL_MODES:
            raise ConfigurationError(
                f"DATABASE_URL asks for sslmode={value!r}, which is none of {', '.join(SSL_MODES)}."
            )
        if key not in DROPPED:
            known.setdefault(RENAMED.get(key, key), value)
    return known


def _place(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"
