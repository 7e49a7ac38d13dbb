//! The road of an exchange, phase by phase. The first page to read.
