//! The plugin contract: spec, phases, step, chain.
