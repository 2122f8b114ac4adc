"""The composition root: builds all services from the settings, one module per subsystem."""
