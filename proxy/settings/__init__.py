"""Settings: one frozen section for each subsystem, from a TOML file and ``SMARTSERVE_*`` variables.

Environment variables override the file: ``SMARTSERVE_SERVER__PORT=9000`` sets ``port`` of
``[server]``. All faults are reported together, each with key, value and allowed values.
"""

from proxy.settings.access import AccessSettings as AccessSettings
from proxy.settings.access import url_keys as url_keys
from proxy.settings.cluster import ClusterSettings as ClusterSettings
from proxy.settings.encoders import EncoderSettings as EncoderSettings
from proxy.settings.exposure import NO_KEY_ADVICE as NO_KEY_ADVICE
from proxy.settings.exposure import access_faults as access_faults
from proxy.settings.exposure import admin_key as admin_key
from proxy.settings.exposure import forward_target as forward_target
from proxy.settings.exposure import has_local_uploads as has_local_uploads
from proxy.settings.exposure import has_page as has_page
from proxy.settings.http import HttpSettings as HttpSettings
from proxy.settings.load import load_settings as load_settings
from proxy.settings.metadata import MetadataSettings as MetadataSettings
from proxy.settings.metadata import callback_key as callback_key
from proxy.settings.object_storage import S3Settings as S3Settings
from proxy.settings.object_storage import s3_secret as s3_secret
from proxy.settings.processes import share as share
from proxy.settings.root import Settings as Settings
from proxy.settings.sections import DatabaseSettings as DatabaseSettings
from proxy.settings.sections import FaceSettings as FaceSettings
from proxy.settings.sections import LifetimeSettings as LifetimeSettings
from proxy.settings.sections import LimitSettings as LimitSettings
from proxy.settings.sections import LogSettings as LogSettings
from proxy.settings.sections import RenditionSettings as RenditionSettings
from proxy.settings.sections import ServerSettings as ServerSettings
from proxy.settings.sections import StorageSettings as StorageSettings
from proxy.settings.sections import TracingSettings as TracingSettings
from proxy.settings.sections import UpgradeSettings as UpgradeSettings
from proxy.settings.sections import WorkerSettings as WorkerSettings
from proxy.settings.uploads import IngestSettings as IngestSettings
from proxy.settings.uploads import MainSettings as MainSettings
from proxy.settings.uploads import TokenKey as TokenKey
from proxy.settings.uploads import UserSettings as UserSettings
from proxy.settings.uploads import main_api_key as main_api_key
from proxy.settings.uploads import media_api_key as media_api_key
from proxy.settings.uploads import token_key as token_key
from proxy.settings.vision import VisionSettings as VisionSettings
from proxy.settings.vision import provider_key as provider_key
