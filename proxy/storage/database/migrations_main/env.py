"""Alembic's environment: runs the migrations on the connection that `proxy.storage.database.schema` gives.

It sets up no logging: that belongs to the program.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
