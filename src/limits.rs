//! Every bound in the program, each with its reason. A bound that a user can set lives in
//! `config`; here are the others, and the defaults' ceilings.

/// Points on the hash ring of one `chash` upstream. 160 a unit of weight: weights that sum to 3,000 and
/// have no common divisor fit unchanged. 8 bytes a point, so 4 MB a core at most.
pub const CHASH_POINTS: u64 = 1 << 19;
/// Levels of JSON Schema, in the schema and in a value checked by it: APISIX's deepest schema has 9; a level
/// costs about 1 KiB of stack in each of two functions, so 128 stay far from a 2 MiB thread stack.
pub const SCHEMA_DEPTH: usize = 128;

/// Sub-schemas of one schema: a plugin's largest has under 200, users write their own in request-validation.
pub const SCHEMA_NODES: usize = 65_536;

/// How deep a condition (`vars` and its like) may nest: JSON itself is read to 128, and no hand-written
/// condition passes a tenth of this; compiling and evaluating recurse.
pub const EXPR_DEPTH: usize = 64;

/// Steps a regular expression of a condition may take (PCRE's LIMIT_MATCH, whose default is 10,000,000):
/// about 10 ms of a core.
pub const REGEX_STEPS: u32 = 1_000_000;
