"""Wiring: the only place where rooms are made and joined; server and command line begin here."""

from proxy.wiring.examining import open_installation
from proxy.wiring.ingesting import Addresses, has_worker, open_ingest, open_main_api
from proxy.wiring.mainside import MainSide, open_main_side, smart_base
from proxy.wiring.rooms import Rooms, ask_worker, open_analyst, open_rooms
from proxy.wiring.storage import Storage, database_prepared, open_storage, schemas
from proxy.wiring.surface import Surface, build_surface
from proxy.wiring.tracing import open_tracing

__all__ = [
    "Addresses",
    "MainSide",
    "Rooms",
    "Storage",
    "Surface",
    "ask_worker",
    "build_surface",
    "database_prepared",
    "has_worker",
    "open_analyst",
    "open_ingest",
    "open_installation",
    "open_main_api",
    "open_main_side",
    "open_rooms",
    "open_storage",
    "open_tracing",
    "schemas",
    "smart_base",
]
