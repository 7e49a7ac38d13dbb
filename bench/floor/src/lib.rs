//! The two things a completion loop needs, and nothing else: a [`ring::Ring`] with the flags we run on, and a
//! [`buffers::Buffers`] ring that the kernel takes receive buffers from.
//!
//! The binary of this package is the floor; `bench/spike` builds its hand-written HTTP proxy on the same two.

pub mod buffers;
pub mod ring;
pub mod socket;
