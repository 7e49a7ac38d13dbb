//! What the candidates share, so that only the reactor under them differs: the heads ([`http`]) and, for those that
//! run futures, the exchange itself ([`exchange`]).

pub mod exchange;
pub mod http;
pub mod options;
