#!/usr/bin/env python3
"""For development; a deployment uses django-admin with DJANGO_SETTINGS_MODULE and its own environment."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "newsroom.settings")
    os.environ.setdefault("DEBUG", "true")
    execute_from_command_line(sys.argv)
