//! Every bound in the program, each with its reason. A bound that a user can set lives in
//! `config`; here are the others, and the defaults' ceilings.

/// Points on the hash ring of one `chash` upstream. 160 a unit of weight: weights that sum to 3,000 and
/// have no common divisor fit unchanged. 8 bytes a point, so 4 MB a core at most.
pub const CHASH_POINTS: u64 = 1 << 19;
