//! Where a request goes: balancers, health, retries, pools.

pub mod balancer;
pub mod hash_key;
pub mod health;
pub mod node_set;
pub mod retry;

pub use balancer::{Balancer, Peer, Pick};
pub use hash_key::HashKey;
pub use node_set::NodeSet;
