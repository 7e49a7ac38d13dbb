//! Connections to log collectors, made by the thread of the log batches.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::Config;
use crate::model::address::without_brackets;
use crate::transport::trust::{self, Trust};

/// A byte stream to a collector, plain or TLS.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Where a collector listens.
#[derive(Clone, Debug)]
pub struct Collector {
    /// A name or an address.
    pub host: Box<str>,
    /// Its port.
    pub port: u16,
    /// For each step: connecting, the handshake, sending.
    pub timeout: Duration,
}

/// TLS to a collector.
#[derive(Clone)]
pub struct CollectorTls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl CollectorTls {
    /// TLS with the server name `name`; with `verify` its certificate is looked at.
    pub fn new(name: &str, verify: bool, config: &Config) -> Result<CollectorTls, String> {
        let trust = match verify {
            true => Trust::Roots(roots(config)?),
            false => Trust::Anyone,
        };
        let client = trust::client_config(&trust, None, &[]).map_err(|error| error.to_string())?;
        let name = trust::server_name(name).ok_or_else(|| format!("invalid server name {name}"))?;
        Ok(CollectorTls { connector: TlsConnector::from(client), name })
    }
}

/// Those of `ssl_trusted_certificate`, read once a process.
fn roots(config: &Config) -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    let path = config.listen.trusted_certificate.as_ref();
    let read = || {
        let path = path.map_or("system".into(), |path| path.to_string_lossy());
        trust::roots(&path).map_err(|error| format!("ssl_trusted_certificate: {error}"))
    };
    ROOTS.get_or_init(read).clone()
}

impl Collector {
    /// The collector of `host` and `port` in a plugin's configuration.
    pub fn of(conf: &serde_json::Value, timeout: Duration) -> Collector {
        Collector {
            host: conf["host"].as_str().unwrap_or_default().into(),
            port: conf["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(0),
            timeout,
        }
    }

    fn address(&self) -> (&str, u16) {
        (without_brackets(&self.host), self.port)
    }

    /// Connects, and shakes hands if there is `tls`. `what` names the server in the error.
    pub async fn connect(&self, tls: Option<&CollectorTls>, what: &str) -> Result<Box<dyn Wire>, String> {
        let at = format!("{what}: host[{}] port[{}]", self.host, self.port);
        let tcp = self.within(TcpStream::connect(self.address())).await;
        let tcp = tcp.map_err(|error| format!("failed to connect to {at} err: {error}"))?;
        let Some(tls) = tls else { return Ok(Box::new(tcp)) };
        let shaken = self.within(tls.connector.connect(tls.name.clone(), tcp)).await;
        match shaken {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(format!("failed to perform TLS handshake to {at} err: {error}")),
        }
    }

    /// Sends `data` on a connection of its own.
    pub async fn send(&self, data: &[u8], tls: Option<&CollectorTls>, what: &str) -> Result<(), String> {
        let mut wire = self.connect(tls, what).await?;
        let sent = self.within(async {
            wire.write_all(data).await?;
            wire.shutdown().await
        });
        sent.await.map_err(|error| {
            format!("failed to send data to {what}: host[{}] port[{}] err: {error}", self.host, self.port)
        })
    }

    /// Sends `data` as one datagram.
    pub async fn send_datagram(&self, data: &[u8]) -> Result<(), String> {
        let sent = self.within(async {
            let mut last = io::ErrorKind::NotFound.into();
            for address in tokio::net::lookup_host(self.address()).await? {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await?;
                match socket.send_to(data, address).await {
                    Ok(_) => return Ok(()),
                    Err(error) => last = error,
                }
            }
            Err(last)
        });
        sent.await.map_err(|error| {
            format!("failed to send data to UDP server: host[{}] port[{}] err:{error}", self.host, self.port)
        })
    }

    /// One step, in its time.
    pub async fn within<T>(&self, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        match timeout(self.timeout, step).await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "timeout")),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    /// The only way to write one in APISIX, whose sockets read a host like one of a URL.
    #[tokio::test]
    async fn an_ipv6_address_may_have_brackets() {
        for host in ["[::1]", "::1"] {
            let (server, datagrams) =
                (TcpListener::bind("[::1]:0").await.unwrap(), UdpSocket::bind("[::1]:0").await.unwrap());
            let collector = |port| Collector { host: host.into(), port, timeout: Duration::from_secs(30) };
            let port = server.local_addr().unwrap().port();
            assert_eq!(collector(port).send(b"line", None, "server").await, Ok(()), "{host}");
            let mut said = Vec::new();
            server.accept().await.unwrap().0.read_to_end(&mut said).await.unwrap();
            assert_eq!(said, b"line");
            let port = datagrams.local_addr().unwrap().port();
            assert_eq!(collector(port).send_datagram(b"line").await, Ok(()), "{host}");
            assert_eq!(datagrams.recv(&mut [0; 8]).await.unwrap(), 4);
        }
    }
}
