"""What Alembic runs for each command. The connection and all options come from `fastedgy.migrate`,
which also holds the transaction and the lock: nothing is opened, committed or read from files here.
"""

from alembic import context

attributes = context.config.attributes
context.configure(connection=attributes["connection"], **attributes["options"])
with context.begin_transaction():
    context.run_migrations()
