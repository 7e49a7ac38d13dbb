//! Every message that crosses a core.
