//! Who must show a certificate has shown it (apisix/init.lua, `verify_https_client`).

use super::Core;
use super::handle::Road;
use crate::exchange::{ClientVerify, Exchange, Reply};

/// Refuses with 400 where the ssl object of the name in the handshake, or that of the `Host`, asks for a certificate
/// that this client has not shown. What the objects are now counts, not what they were at the handshake.
pub fn verify(core: &Core, ex: &Exchange) -> Road {
    let Some(tls) = &ex.facts.tls else { return Ok(()) };
    let live = core.live.borrow();
    let certificates = live.certificates();
    if !certificates.any_asks_client() {
        return Ok(());
    }
    let verified = tls.client == ClientVerify::Success;
    let refused = |why: &str| {
        log::warn!("{why}, client: {}", ex.remote_addr);
        Err(Reply::page(400))
    };
    let sni = tls.sni.as_deref().unwrap_or_default();
    if let Some(own) = certificates.find(sni)
        && own.judges_by_path()
        && !own.skips_mtls(&ex.req.path)
        && !verified
    {
        return refused("client certificate was not present or not verified");
    }
    let host = String::from_utf8_lossy(&ex.req.host);
    let Some(of_host) = certificates.find(&host).filter(|of_host| of_host.asks_client()) else {
        return Ok(());
    };
    if sni != host {
        // Another name of the same wildcard may have another authority.
        return refused("client certificate verified with another name than the host's");
    }
    if !verified && !of_host.judges_by_path() {
        return refused("client certificate was not present or not verified");
    }
    Ok(())
}
