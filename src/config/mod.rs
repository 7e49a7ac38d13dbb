//! `conf/config.yaml`: defaults, merge, environment, checks.
