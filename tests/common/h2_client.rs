//! The h2 crate as a client: what it speaks the gateway speaks with the same crate, but in the other role.

use bytes::Bytes;
use h2::client::SendRequest;

use super::PATIENCE;

/// Runs `work` with a client of its own.
pub fn with_h2<T>(port: u16, work: impl AsyncFnOnce(SendRequest<Bytes>) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (client, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        tokio::time::timeout(2 * PATIENCE, work(client)).await.expect("an end within patience")
    })
}
