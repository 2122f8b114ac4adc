"""Alembic's environment: run the migrations on the connection of `storage.database.schema`.

It sets up no logging: that belongs to the program.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
