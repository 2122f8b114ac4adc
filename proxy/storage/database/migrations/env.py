"""Alembic's environment: runs the migrations on the connection that `schema.upgrade` passes.

It configures no logging; the program does that.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
