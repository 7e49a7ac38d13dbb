//! Where a request goes: balancers, health, retries, pools.
