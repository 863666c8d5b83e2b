"""The storage for uploads of sites with ``media_storage: s3``: django-storages, which is told by the environment."""

import os

from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from django.utils.deconstruct import deconstructible
from storages.backends.s3 import S3Storage


@deconstructible(path="trestle_s3.S3MediaStorage")
class S3MediaStorage(S3Storage):
    def get_default_settings(self):
        """MEDIA_S3_BUCKET and the keys; without MEDIA_S3_ENDPOINT it is Amazon's. Addresses are signed and end after an
        hour, unless MEDIA_S3_DOMAIN names one under which anybody may read the bucket."""
        env = {name: os.environ.get(f"MEDIA_S3_{name.upper()}") or None for name in ("endpoint", "region", "domain")}
        # A service of one's own seldom has a host name for each bucket.
        style = {"addressing_style": "path" if env["endpoint"] else "auto"}
        retries = {"max_attempts": 3, "mode": "standard"}
        return super().get_default_settings() | {
            "bucket_name": os.environ["MEDIA_S3_BUCKET"],
            "access_key": os.environ["MEDIA_S3_ACCESS_KEY"],
            "secret_key": os.environ["MEDIA_S3_SECRET_KEY"],
            "endpoint_url": env["endpoint"],
            "region_name": env["region"],
            "custom_domain": env["domain"],
            "client_config": Config(s3=style, connect_timeout=2, read_timeout=20, retries=retries),
            # Threads would hold ten parts of 8 MB in memory.
            "transfer_config": TransferConfig(use_threads=False),
            # As on the media hosts: a name that is taken is not written again.
            "file_overwrite": False,
            "default_acl": None,
        }
