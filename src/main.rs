//! Arguments → configuration → boot → wait.

fn main() {}
