//! Servers and clients of layer 4 that say little.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringway::transport::trust::{self, Identity, Trust};
use serde_json::{Value, json};

use super::{PATIENCE, Setup, Source};

/// A gateway to be with the Admin API and one plain listener on `ports.proxied`.
pub fn listening(driver: &'static str) -> Setup {
    let streams = "proxy_mode: http&stream\nstream_proxy: {tcp: [\"127.0.0.1:$PROXIED\"]}\n";
    Setup::new(driver, Source::Embedded).apisix(streams)
}

/// The same with one more listener, for TLS, on this port.
pub fn listening_tls(driver: &'static str, secured: u16) -> Setup {
    let streams = format!(
        "proxy_mode: http&stream\nstream_proxy: {{tcp: [\"127.0.0.1:$PROXIED\", {{addr: \"127.0.0.1:{secured}\", tls: true}}]}}\n"
    );
    Setup::new(driver, Source::Embedded).apisix(&streams)
}

/// A gateway to be that listens for datagrams on this port.
pub fn listening_udp(driver: &'static str, udp: u16) -> Setup {
    let streams = format!("proxy_mode: http&stream\nstream_proxy: {{udp: [\"127.0.0.1:{udp}\"]}}\n");
    Setup::new(driver, Source::Embedded)
        .apisix(&streams)
        .nginx("stream: {enable_access_log: true, access_log_buffer: 1}\n")
}

/// An upstream that says its name to whoever connects, then sends back what it gets, until that ends. Then it says bye.
pub struct Echo {
    pub port: u16,
    pub connections: Arc<AtomicUsize>,
}

impl Echo {
    pub fn start(name: &'static str) -> Echo {
        Echo::on(name, 0)
    }

    /// On this port; 0: any.
    pub fn on(name: &'static str, port: u16) -> Echo {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                    let _ = to.write_all(name.as_bytes());
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.write_all(b"bye");
                });
            }
        });
        Echo { port, connections }
    }

    pub fn upstream(&self) -> Value {
        json!({"type": "roundrobin", "nodes": {format!("127.0.0.1:{}", self.port): 1}})
    }
}

pub fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// All that comes after `text` was sent and our side was closed. A reset ends it, too.
pub fn said(port: u16, text: &str) -> String {
    let mut stream = connect(port);
    let _ = stream.write_all(text.as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// What comes on a TLS connection that asks for `sni`, after `text` was sent. The client may show a certificate of its own, with
/// its key.
pub fn said_by_tls(port: u16, sni: &str, text: &str, own: Option<(&str, &str)>) -> String {
    let own = own.map(|(cert, key)| Identity::from_pem(cert, key).unwrap());
    let config = trust::client_config(&Trust::Anyone, own.as_ref(), &[b"mqtt"]).unwrap();
    let name = rustls::pki_types::ServerName::try_from(sni.to_owned()).unwrap();
    let client = rustls::ClientConnection::new(config, name).unwrap();
    let mut stream = rustls::StreamOwned::new(client, connect(port));
    let mut answer = Vec::new();
    if stream.write_all(text.as_bytes()).is_ok() {
        stream.conn.send_close_notify();
        let _ = stream.flush();
    }
    if let Err(error) = stream.read_to_end(&mut answer) {
        println!("{sni}: {error}");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A server of datagrams that sends back what it gets, its name before it.
pub fn mirror(name: &'static str) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut datagram = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&[name.as_bytes(), &datagram[..length]].concat(), from);
        }
    });
    port
}
