"""Configurations: YAML files, ``base:`` lists and overrides, checked against the schema."""

from dynrefer.config.loading import FORMAT_VERSION, ConfigError, load_config, require, to_plain

__all__ = ["FORMAT_VERSION", "ConfigError", "load_config", "require", "to_plain"]
