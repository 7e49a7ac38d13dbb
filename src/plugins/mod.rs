//! One file per plugin, named as in APISIX; this file is the registry.
