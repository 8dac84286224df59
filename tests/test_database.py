"""URLs, connections and transactions, on the test server."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from helpers import PATIENCE, database_on, eventually, execute
from hypothesis import given
from hypothesis import strategies as st

from fastedgy import database, embedded, orm
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.connections import SIZE, Connections
from fastedgy.database import (
    caller_transaction,
    connect,
    edgy_database,
    in_transaction,
    normalize_url,
    resolve_url,
    transaction,
)
from fastedgy.database_url import DatabaseAddress, parse_url
from fastedgy.errors import (
    ConfigurationError,
    DatabaseTooOld,
    DatabaseUnavailable,
    SchemaOutdated,
)

SETTINGS = Settings()


@pytest.mark.parametrize(
    ("given_url", "canonical"),
    [
        ("postgres://ada:pw@db.example:5433/shop", "postgresql://ada:pw@db.example:5433/shop"),
        ("postgresql://localhost/shop", "postgresql://localhost/shop"),
        ("postgresql+asyncpg://ada@h/shop", "postgresql://ada@h/shop"),
        ("postgresql+psycopg2://ada@h/shop", "postgresql://ada@h/shop"),
        ("POSTGRES://h/shop", "postgresql://h/shop"),
        ("jdbc:postgresql://h/shop?user=ada&password=p%26w", "postgresql://ada:p%26w@h/shop"),
        (' "postgres://h/shop"\n', "postgresql://h/shop"),
        ("postgresql:///shop", "postgresql:///shop"),
        ("postgres://h/a?sslmode=require", "postgresql://h/a?sslmode=require"),
        ("postgres://h/a?ssl=true", "postgresql://h/a?sslmode=require"),
        ("postgres://h/a?application_name=me@x", "postgresql://h/a?application_name=me%40x"),
        ("postgres://h/a?sslmode=require&channel_binding=require&pgbouncer=true&pool_size=3",
         "postgresql://h/a?sslmode=require"),
        ("postgres://h/a?schema=crm", "postgresql://h/a?search_path=crm"),
        ("postgresql://u@/a?host=/var/run/postgresql", "postgresql://u@/a?host=/var/run/postgresql"),
        ("postgresql://%2Fvar%2Frun%2Fpg/a", "postgresql:///a?host=/var/run/pg"),
        ("postgresql:///a?host=/with%20space&port=5433",
         "postgresql:///a?host=/with%20space&port=5433"),
        ("postgres://[::1]:5433/a", "postgresql://[::1]:5433/a"),
        ("postgres://::1/a", "postgresql://[::1]/a"),
        ("postgres://one:1,two:2/a", "postgresql://one:1,two:2/a"),
        ("postgres:///a?host=one,two&port=1,2", "postgresql://one:1,two:2/a"),
        ("postgres://u:p@ss:w/rd#?@h/a", "postgresql://u:p%40ss%3Aw%2Frd%23%3F@h/a"),
        ("postgres://u:100%@h/a", "postgresql://u:100%25@h/a"),
        ("postgres://u:@h/a", "postgresql://u:@h/a"),
        ("postgres://%C3%A9va:p%20w@h/caf%C3%A9", "postgresql://%C3%A9va:p%20w@h/caf%C3%A9"),
        ("host=h port=5433 dbname=shop user=ada password='p w'",
         "postgresql://ada:p%20w@h:5433/shop"),
    ],
)  # fmt: skip
def test_any_usual_url_becomes_the_one_form(given_url: str, canonical: str) -> None:
    assert normalize_url(given_url) == canonical
    assert normalize_url(canonical) == canonical


@given(
    user=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    password=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)
def test_every_user_and_password_survives(user: str, password: str) -> None:
    address = DatabaseAddress((("h", 5432),), user, password, "shop")
    assert parse_url(address.url) == address
    assert parse_url(address.write("postgres")) == address


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://ada:secret@h/shop", "begins with 'mysql://'"),
        ("sqlite:///secret.db", "begins with 'sqlite://'"),
        ("nonsense-secret", "is not a URL"),
        ("postgres://ada:secret@h:port/shop", "the port 'port', which is not a number"),
        ("postgres://ada:secret@h:70000/shop", "the port '70000'"),
        ("postgres://ada:secret@h o s t/shop", "the host 'h o s t'"),
        ("postgres://ada:secret@h/shop/cart", "the database 'shop/cart'"),
        ("postgres://ada:secret@h/sh%00op", "which no database can be called"),
        ("postgres://ada:secret@h/shop?sslmode=maybe", "sslmode='maybe', which is none of disable"),
        ("postgres://a,b/shop?port=1,2,3", "2 hosts and 3 ports"),
        ("host='a dbname=b", "an open quote"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused_by_its_name_and_without_its_password(
    url: str, said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        normalize_url(url)
    assert "DATABASE_URL" in str(caught.value)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value).replace("secret.db", "")
    assert "\n" not in str(caught.value)


async def test_without_a_url_it_is_the_embedded_server_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Started:
        data_dir = Path("/somewhere")

        def start(self) -> str:
            return "postgresql://postgres@/postgres?host=/somewhere/run&port=5432"

    asked: list[Path] = []
    monkeypatch.setattr(embedded, "server", lambda folder: asked.append(folder) or Started())
    said: list[str] = []
    url = await resolve_url(Settings(data_dir="here", database_url=" "), announce=said.append)
    assert url == "postgresql://postgres@/postgres?host=/somewhere/run&port=5432"
    assert asked == [Path("here")]
    assert said == ["DATABASE_URL is not set: using the embedded Postgres in /somewhere."]


async def test_a_url_is_normalised_and_nothing_is_said() -> None:
    said: list[str] = []
    settings = Settings(database_url="postgres://h/shop")
    assert await resolve_url(settings, announce=said.append) == "postgresql://h/shop"
    assert said == []


# connect()


async def test_a_connection_tells_its_name(empty_database_url: str) -> None:
    connection = await connect(empty_database_url, server_settings={"work_mem": "8MB"})
    assert await connection.fetchval("SHOW application_name") == "fastedgy"
    assert await connection.fetchval("SHOW work_mem") == "8MB"
    await connection.close()
    glue = "&" if "?" in empty_database_url else "?"
    connection = await connect(f"{empty_database_url}{glue}application_name=mine")
    assert await connection.fetchval("SHOW application_name") == "mine"
    await connection.close()


async def test_nobody_there_is_one_sentence_with_place_and_cause() -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        await connect("postgresql://ada:secret@127.0.0.1:1/shop")
    assert str(caught.value) == (
        "The database shop at 127.0.0.1:1 (user ada) is not reachable: connection refused. "
        "Is the server running, and is DATABASE_URL right?"
    )
    assert isinstance(caught.value, ConnectionError)


async def test_every_address_of_localhost_being_closed_is_still_one_short_sentence() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"not reachable: connection refused\. Is the"):
        await connect("postgresql://localhost:1/shop")


async def test_an_error_of_several_lines_becomes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DatabaseUnavailable, match=r"root\.crt") as caught:
        await connect("postgresql://h/shop?sslmode=verify-full")
    assert "\n" not in str(caught.value)


async def test_a_missing_certificate_is_named() -> None:
    said = r"there is no file /no/root\.crt\. Correct sslrootcert in DATABASE_URL\."
    with pytest.raises(DatabaseUnavailable, match=said):
        await connect("postgresql://h/shop?sslmode=verify-full&sslrootcert=/no/root.crt")


async def test_something_else_that_answers_there_is_unavailable() -> None:
    with fake_server("nonsense", ssl=b"H") as url, pytest.raises(DatabaseUnavailable):
        await connect(url, timeout=PATIENCE)


@pytest.mark.parametrize(
    "url", ["postgresql://h.invalid/shop", "postgresql:///shop?host=/nowhere", "postgres://[::2]/a"]
)
async def test_a_place_that_is_not_there_is_unavailable(url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="is not reachable: "):
        await connect(url, timeout=PATIENCE)


async def test_a_missing_database_names_the_command(server_url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="`fastedgy db createdb` creates it"):
        await connect(database_on(server_url, "not_there"))


async def test_a_refused_user_is_told_where_to_look(server_url: str) -> None:
    address = parse_url(server_url)
    refused = DatabaseAddress(address.hosts, "nobody_knows", "wrong", address.name, {})
    with pytest.raises(DatabaseUnavailable, match="Check the user and the password") as caught:
        await connect(refused.url)
    assert "wrong" not in str(caught.value)


async def test_an_option_that_the_server_does_not_know_is_named(server_url: str) -> None:
    glue = "&" if "?" in server_url else "?"
    with pytest.raises(ConfigurationError, match=r'"colour".* Remove it'):
        await connect(f"{server_url}{glue}colour=blue")


@contextmanager
def fake_server(version: str | None, ssl: bytes = b"N") -> Iterator[str]:
    """A server that is as old as it is told to be; None: it never answers."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!i", len(body) + 4) + body

    def answer() -> None:
        connection, _ = listener.accept()
        accepted.append(connection)
        with connection:
            if version is not None:
                connection.recv(8)
                connection.sendall(ssl)  # N: no TLS
                connection.recv(1000)
                connection.sendall(
                    message(b"R", b"\0\0\0\0")
                    + message(b"S", f"server_version\0{version}\0".encode())
                    + message(b"K", b"\0" * 8)
                    + message(b"Z", b"I")
                )
            while connection.recv(1000):
                pass

    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        thread.submit(answer)
        yield f"postgresql://ada@127.0.0.1:{listener.getsockname()[1]}/shop"
        # The client's own end is closed in the next round of its event loop.
        accepted[0].shutdown(socket.SHUT_RDWR)


async def test_an_old_server_is_refused() -> None:
    with (
        fake_server("12.22") as url,
        pytest.raises(DatabaseTooOld, match=r"is PostgreSQL 12\.22, and 13 is the oldest"),
    ):
        await connect(url)


async def test_a_server_that_does_not_answer_is_given_up() -> None:
    with (
        fake_server(None) as url,
        pytest.raises(DatabaseUnavailable, match=r"no answer within 0\.2 s"),
    ):
        await connect(url, timeout=0.2)


# Connections


@pytest.fixture
async def connections(empty_database_url: str) -> AsyncIterator[Connections]:
    opened = Connections(empty_database_url, SETTINGS, QueuedTaskConfig())
    yield opened
    await opened.close()


async def pid(connection: asyncpg.Connection) -> int:
    value: int = await connection.fetchval("SELECT pg_backend_pid()")
    return value


async def test_a_connection_is_kept_for_the_next(connections: Connections) -> None:
    async with connections.acquire() as connection:
        first = await pid(connection)
    async with connections.acquire() as connection:
        assert await pid(connection) == first


async def test_many_at_once_share_a_few_connections_in_turn(connections: Connections) -> None:
    using = most = 0
    pids: set[int] = set()
    all_in_use = asyncio.Event()

    async def use() -> None:
        nonlocal using, most
        async with connections.acquire() as connection:
            using += 1
            most = max(most, using)
            if using == SIZE:
                all_in_use.set()
            await all_in_use.wait()  # else the first to open could do the work of all
            pids.add(await pid(connection))
            using -= 1

    await asyncio.wait_for(asyncio.gather(*(use() for _ in range(50))), PATIENCE)
    assert most == len(pids) == SIZE


async def test_who_is_cancelled_while_waiting_holds_up_nobody(connections: Connections) -> None:
    pids: set[int] = set()
    async with AsyncExitStack() as stack:
        for _ in range(SIZE):
            pids = {await pid(await stack.enter_async_context(connections.acquire()))} | pids

        async def use() -> int:
            async with connections.acquire() as connection:
                return await pid(connection)

        impatient, patient = asyncio.create_task(use()), asyncio.create_task(use())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(impatient.cancel)
        await asyncio.sleep(0)
    assert await asyncio.wait_for(patient, PATIENCE) in pids
    assert impatient.cancelled()


async def test_a_statement_whose_caller_was_cancelled_takes_its_connection_along(
    connections: Connections,
) -> None:
    seen: list[int] = []

    async def use() -> None:
        async with connections.acquire() as connection:
            seen.append(await pid(connection))
            await connection.execute("SELECT pg_sleep(30)")

    task = asyncio.create_task(use())

    def started() -> None:
        assert seen

    await eventually(started)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with connections.acquire() as connection:
        assert await pid(connection) not in seen


async def test_a_lost_connection_is_an_outage_and_the_next_one_works(
    connections: Connections, empty_database_url: str
) -> None:
    with pytest.raises(DatabaseUnavailable, match="was lost: "):
        async with connections.acquire() as connection:
            kill = f"SELECT pg_terminate_backend({await pid(connection)})"
            await execute(empty_database_url, kill)
            await pid(connection)
    async with connections.acquire() as connection:
        assert await pid(connection)


async def test_a_connection_that_opens_as_its_user_is_cancelled_is_cut(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[asyncpg.Connection] = []

    async def connect(*args: Any, **kwargs: Any) -> asyncpg.Connection:
        opened.append(await database.connect(*args, **kwargs))
        asyncio.get_running_loop().call_soon(user.cancel)  # before the user hears of it
        return opened[0]

    async def use() -> None:
        async with connections.acquire():
            pytest.fail("it was cancelled")

    monkeypatch.setattr("fastedgy.connections.connect", connect)
    user = asyncio.create_task(use())
    with pytest.raises(asyncio.CancelledError):
        await user
    await asyncio.sleep(0)
    assert opened[0].is_closed()


async def test_a_statement_that_hangs_counts_as_lost(empty_database_url: str) -> None:
    config = QueuedTaskConfig(statement_timeout=0.3)
    connections = Connections(empty_database_url, SETTINGS, config)
    with pytest.raises(DatabaseUnavailable, match="no answer in time"):
        async with connections.acquire() as connection:
            await connection.execute("SELECT pg_sleep(30)")
    await connections.close()


async def test_a_statement_that_is_wrong_is_its_own_error(connections: Connections) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with connections.acquire() as connection:
            await connection.execute("SELECT 1 / 0")


@pytest.mark.parametrize("wrong", ["* FROM queued_tasks", "not_there FROM pg_class"])
async def test_tables_that_are_not_there_are_told_with_the_cure(
    connections: Connections, wrong: str
) -> None:
    with pytest.raises(SchemaOutdated, match="does not exist. Run `fastedgy db migrate`"):
        async with connections.acquire() as connection:
            await connection.execute(f"SELECT {wrong}")


async def test_a_server_that_is_away_is_unavailable() -> None:
    connections = Connections("postgres://127.0.0.1:1/a", SETTINGS, QueuedTaskConfig())
    with pytest.raises(DatabaseUnavailable, match="connection refused"):
        async with connections.acquire():
            pass
    await connections.close()


def test_a_new_event_loop_gets_a_new_pool(empty_database_url: str) -> None:
    connections = Connections(empty_database_url, SETTINGS, QueuedTaskConfig())

    async def use() -> int:
        async with connections.acquire() as connection:
            found = await pid(connection)
        await connections.close()
        return found

    assert asyncio.run(use()) != asyncio.run(use())


# Edgy and the caller's transaction


@pytest.fixture
async def edgy(empty_database_url: str) -> AsyncIterator[Any]:
    await execute(empty_database_url, "CREATE TABLE notes (n int)")
    async with edgy_database(empty_database_url, SETTINGS) as opened:
        yield opened


async def notes(url: str) -> list[int]:
    connection = await connect(url)
    rows = await connection.fetch("SELECT n FROM notes ORDER BY n")
    await connection.close()
    return [row["n"] for row in rows]


async def test_edgy_reaches_what_asyncpg_reaches_with_all_options(empty_database_url: str) -> None:
    glue = "&" if "?" in empty_database_url else "?"
    url = f"{empty_database_url}{glue}application_name=an%20app&search_path=pg_catalog"
    async with edgy_database(url, SETTINGS) as opened:
        assert await opened.fetch_val("SHOW application_name") == "an app"
        assert await opened.fetch_val("SHOW search_path") == "pg_catalog"
        assert opened.url.database == parse_url(url).name


async def test_edgy_works_behind_a_pooler(empty_database_url: str) -> None:
    async with edgy_database(empty_database_url, SETTINGS, pooler=True) as opened:
        assert await opened.fetch_val("SELECT 1") == 1


def test_strange_passwords_reach_edgy_unchanged() -> None:
    made = edgy_database("postgresql://ev%40:p%40%2F%3A%25%20%C3%A9@h:5433/shop", SETTINGS)
    assert made.url.username == "ev@"
    assert made.url.password == "p@/:% é"
    assert made.options["connect_args"]["dsn"].startswith("postgresql://ev%40:p%40%2F")


async def test_without_a_transaction_there_is_none_to_join(edgy: Any) -> None:
    assert not in_transaction(edgy)
    async with caller_transaction(edgy) as raw:
        assert raw is None
    async with edgy.connection() as held:
        await held.fetch_val("SELECT 1")
        assert not in_transaction(edgy)
        async with caller_transaction(edgy) as raw:
            assert raw is None
    assert not edgy._connection_map


@pytest.mark.parametrize("options", [{}, {"isolation_level": "READ_COMMITTED"}])
async def test_what_is_written_on_the_callers_connection_shares_its_fate(
    edgy: Any, empty_database_url: str, options: dict[str, str]
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with edgy.transaction(**options):
            assert in_transaction(edgy)
            async with caller_transaction(edgy) as raw:
                await raw.execute("INSERT INTO notes VALUES (1)")
            raise ZeroDivisionError
    assert await notes(empty_database_url) == []
    async with edgy.transaction(**options), caller_transaction(edgy) as raw:
        await raw.execute("INSERT INTO notes VALUES (2)")
    assert await notes(empty_database_url) == [2]
    assert not in_transaction(edgy)


async def test_another_tasks_transaction_is_not_ours(edgy: Any) -> None:
    async def look() -> bool:
        return in_transaction(edgy)

    async with edgy.transaction():
        assert await asyncio.create_task(look()) is False


async def test_a_transaction_that_is_none_is_named(edgy: Any) -> None:
    with pytest.raises(ConfigurationError, match="READ_COMMITTED"):
        async with edgy.transaction(isolation_level="READ COMMITTED"), caller_transaction(edgy):
            pass


async def test_our_transaction_is_read_committed_and_undone_by_an_error(
    edgy: Any, empty_database_url: str
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with transaction(edgy):
            assert await edgy.fetch_val("SHOW transaction_isolation") == "read committed"
            await edgy.execute("INSERT INTO notes VALUES (1)")
            raise ZeroDivisionError
    assert await notes(empty_database_url) == []
    async with transaction(edgy):
        await edgy.execute("INSERT INTO notes VALUES (2)")
    assert await notes(empty_database_url) == [2]


async def test_our_transaction_inside_another_is_a_savepoint(
    edgy: Any, empty_database_url: str
) -> None:
    async with edgy.transaction():
        await edgy.execute("INSERT INTO notes VALUES (1)")
        with pytest.raises(ZeroDivisionError):
            async with transaction(edgy):
                await edgy.execute("INSERT INTO notes VALUES (2)")
                raise ZeroDivisionError
        async with transaction(edgy):
            await edgy.execute("INSERT INTO notes VALUES (3)")
    assert await notes(empty_database_url) == [1, 3]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_held_connection_commits_again_after_our_transaction(
    edgy: Any, empty_database_url: str, fails: bool
) -> None:
    async with edgy.connection() as held:
        try:
            async with transaction(edgy):
                await held.execute("INSERT INTO notes VALUES (1)")
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            assert fails
        await held.execute("INSERT INTO notes VALUES (2)")
    assert await notes(empty_database_url) == ([2] if fails else [1, 2])


# The registry


async def test_models_declared_before_the_url_is_known_use_it(empty_database_url: str) -> None:
    class Note(orm.Model):
        n: int = orm.fields.IntegerField()

        class Meta:
            tablename = "notes"

    try:
        database.bind(empty_database_url, SETTINGS)
        async with database.registry:
            await database.registry.create_all()
            await Note.query.create(n=7)
            database.bind(empty_database_url, SETTINGS)  # the same again changes nothing
            with pytest.raises(ConfigurationError, match="One process serves one DATABASE_URL"):
                database.bind("postgres://h/other", SETTINGS)
            async with transaction(Note.database), caller_transaction(Note.database) as raw:
                assert raw is not None
        assert await notes(empty_database_url) == [7]
    finally:
        database.registry.delete_model("Note")


LATE = """
import asyncio, sys
from fastedgy import database
from fastedgy.config import Settings
from fastedgy.errors import ConfigurationError

async def main(url):
    settings = Settings(database_url=url)
    async with database.bound(url, settings), database.bound(url, settings):
        try:
            async with database.bound("postgres://h/other", settings):
                raise AssertionError("two databases")
        except ConfigurationError as error:
            assert "One process serves one DATABASE_URL" in str(error)
        assert not database.in_use() and "edgy.core" not in sys.modules
        used = database.registry.database
        assert await used.fetch_val("SELECT 42") == 42 and used.ref_counter == 2
    assert not used.is_connected
    async with database.bound(url, settings):
        assert await used.fetch_val("SELECT 42") == 42
    assert not used.is_connected

asyncio.run(main(sys.argv[1]))
"""


def test_a_registry_that_is_made_while_applications_run_is_connected_and_ends_with_them(
    empty_database_url: str,
) -> None:
    command = [sys.executable, "-W", "error", "-c", LATE, empty_database_url]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")


def test_importing_the_database_room_imports_no_driver() -> None:
    code = (
        "import sys, fastedgy.database; "
        "print({'sqlalchemy', 'databasez', 'asyncpg'} & sys.modules.keys() or False)"
    )
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert said.stdout == "False\n"


def test_a_module_attribute_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        database.nothing_like_it  # noqa: B018
