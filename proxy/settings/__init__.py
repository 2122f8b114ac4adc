"""Settings: one frozen section for each room, from a TOML file and ``SMARTSERVE_*`` variables.

The environment wins over the file: ``SMARTSERVE_SERVER__PORT=9000`` sets ``port`` of ``[server]``.
All faults are found at once and each names key, value and what is allowed.
"""

from proxy.settings.encoders import EncoderSettings
from proxy.settings.exposure import NO_KEY, access_faults, admin_key, has_page, has_trial
from proxy.settings.load import CONFIG_VARIABLE, load_settings
from proxy.settings.secrets import kept_key
from proxy.settings.sections import (
    ENV_PREFIX,
    AdminSettings,
    DatabaseSettings,
    LifetimeSettings,
    LimitSettings,
    LogSettings,
    PageSettings,
    RenditionSettings,
    ServerSettings,
    Settings,
    StorageSettings,
    UpgradeSettings,
    WorkerSettings,
)
from proxy.settings.tracing import TracingSettings
from proxy.settings.uploads import (
    IngestSettings,
    MainSettings,
    TokenKey,
    UserSettings,
    main_api_key,
    media_api_key,
    token_key,
)
from proxy.settings.vision import VisionSettings, provider_key

__all__ = [
    "CONFIG_VARIABLE",
    "ENV_PREFIX",
    "NO_KEY",
    "AdminSettings",
    "DatabaseSettings",
    "EncoderSettings",
    "IngestSettings",
    "LifetimeSettings",
    "LimitSettings",
    "LogSettings",
    "MainSettings",
    "PageSettings",
    "RenditionSettings",
    "ServerSettings",
    "Settings",
    "StorageSettings",
    "TokenKey",
    "TracingSettings",
    "UpgradeSettings",
    "UserSettings",
    "VisionSettings",
    "WorkerSettings",
    "access_faults",
    "admin_key",
    "has_page",
    "has_trial",
    "kept_key",
    "load_settings",
    "main_api_key",
    "media_api_key",
    "provider_key",
    "token_key",
]
