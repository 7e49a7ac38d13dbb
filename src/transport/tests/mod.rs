//! TLS against rustls servers on threads of the test's own, on both drivers.
//!
//! The certificates beside this file are for these tests only: a CA, and under it `server` and `client`,
//! each for its name with `.example`, for `localhost` and for 127.0.0.1; valid for 100 years.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream as Blocking};
use std::rc::Rc;
use std::sync::{Arc, mpsc};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::trust::{self, Trust};
use super::*;
use crate::reactor::{Arrived, Config, Driver, ListenOptions, Listener, Out, TcpStream, block_on, now_ms};

const CA: &str = include_str!("ca.pem");
const SERVER: (&str, &str) = (include_str!("server.pem"), include_str!("server.key.pem"));
const CLIENT: (&str, &str) = (include_str!("client.pem"), include_str!("client.key.pem"));

/// Runs a future on io_uring, where the host has it, and on epoll.
pub fn on_both<F: Future<Output = ()>>(test: impl Fn() -> F) {
    for driver in [Driver::Uring, Driver::Epoll] {
        match block_on(Config { driver, ..Config::default() }, |_| test()) {
            Ok(()) => {}
            Err(error) if driver == Driver::Uring => eprintln!("io_uring is refused here: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
}

type Served = StreamOwned<ServerConnection, Blocking>;

/// A TLS server that serves one connection after another, for as long as the test runs.
fn server(
    want_client: bool,
    serve: impl Fn(&mut Served) -> std::io::Result<()> + Send + 'static,
) -> SocketAddr {
    let builder =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap();
    let builder = if want_client {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(ca(), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let chain = CertificateDer::pem_slice_iter(SERVER.0.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(SERVER.1.as_bytes()).unwrap();
    let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            // A client that is refused, or leaves, ends its own connection only.
            let _ = serve(&mut StreamOwned::new(tls, tcp));
        }
    });
    address
}

fn echo(stream: &mut Served) -> std::io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            stream.conn.send_close_notify();
            return stream.flush();
        }
        stream.write_all(&buffer[..read])?;
    }
}

fn ca() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CA.as_bytes()).unwrap()).unwrap();
    Arc::new(roots)
}

fn clients() -> TlsClients {
    TlsClients::new(Trust::Roots(ca()))
}

fn target(address: SocketAddr, client: &Rc<TlsClient>, name: &str) -> Target {
    let name = trust::server_name(name);
    Target { address, tls: Some(Secure { client: Rc::clone(client), name }) }
}

async fn open(address: SocketAddr, client: &Rc<TlsClient>, name: &str) -> std::io::Result<Stream> {
    connect(&target(address, client, name), 5000).await
}

/// Sends what it gets back.
async fn there_and_back(stream: &Stream, bytes: Vec<u8>) -> Vec<u8> {
    let len = bytes.len();
    stream.send(bytes);
    stream.flush().await.unwrap();
    let mut back = Vec::new();
    while back.len() < len {
        let chunk = stream.recv().await.unwrap();
        assert!(!chunk.is_empty(), "the stream ended after {} of {len} bytes", back.len());
        back.extend_from_slice(&chunk);
    }
    back
}

#[test]
fn bytes_come_back_through_a_verified_connection_and_its_end_is_seen() {
    let address = server(false, echo);
    on_both(async || {
        let client = clients().get(true, None, &[]).unwrap();
        let stream = open(address, &client, "server.example:443").await.unwrap();
        // more than rustls buffers, more than a record, less than what deadlocks an echo in one thread
        let bytes: Vec<u8> = (0..150_000_u32).map(|n| (n % 251) as u8).collect();
        assert!(there_and_back(&stream, bytes.clone()).await == bytes);
        stream.expect_bulk(true);
        assert!(there_and_back(&stream, bytes.clone()).await == bytes);
        stream.shutdown_write();
        assert!(stream.recv().await.unwrap().is_empty());
        assert!(stream.recv().await.unwrap().is_empty(), "and stays");
    });
}

#[test]
fn what_waits_in_a_pipe_is_encrypted_too() {
    let address = server(false, echo);
    on_both(async || {
        let client = clients().get(false, None, &[]).unwrap();
        let stream = open(address, &client, "server.example").await.unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap(), 1000).await.unwrap();
        let near = TcpStream::from_fd(listener.accept().await.unwrap().into()).unwrap();
        far.send(b"in a pipe".to_vec());
        let arrived = std::future::poll_fn(|cx| near.poll_piped(cx, 9)).await.unwrap();
        assert!(matches!(arrived, Arrived::Piped(_)), "{arrived:?}");
        stream.send(Out::from(b"a head and ".to_vec()).arrived(arrived));
        let mut back = Vec::new();
        while back.len() < 20 {
            back.extend_from_slice(&stream.recv().await.unwrap());
        }
        assert_eq!(back, b"a head and in a pipe");
    });
}

#[test]
fn what_was_put_back_comes_first() {
    let address = server(false, echo);
    on_both(async || {
        let client = clients().get(false, None, &[]).unwrap();
        let stream = open(address, &client, "server.example").await.unwrap();
        stream.send(b"abcdef".to_vec());
        let mut chunk = stream.recv().await.unwrap();
        while chunk.len() < 6 {
            let more = stream.recv().await.unwrap();
            chunk = crate::reactor::Chunk::from_vec([&chunk[..], &more[..]].concat());
        }
        let front = chunk.split_to(2);
        stream.unrecv(chunk);
        stream.unrecv(front);
        assert!(stream.has_buffered());
        assert_eq!(&stream.recv().await.unwrap()[..], b"ab");
        assert_eq!(&stream.recv().await.unwrap()[..], b"cdef");
    });
}

#[test]
fn verification_refuses_a_wrong_name_and_an_unknown_ca_unless_it_is_off() {
    let address = server(false, echo);
    on_both(async || {
        let knowing = clients().get(true, None, &[]).unwrap();
        let nobody = TlsClients::new(Trust::Roots(Arc::new(RootCertStore::empty())));
        let unknowing = nobody.get(true, None, &[]).unwrap();
        let careless = nobody.get(false, None, &[]).unwrap();
        for (client, name, accepted) in [
            (&knowing, "server.example", true),
            (&knowing, "other.example", false),
            (&knowing, "127.0.0.1", true),
            (&unknowing, "server.example", false),
            (&careless, "other.example", true),
        ] {
            match open(address, client, name).await {
                Ok(_) => assert!(accepted, "{name}"),
                Err(error) => assert!(!accepted && error.kind() == ErrorKind::InvalidData, "{name}: {error}"),
            }
        }
    });
}

#[test]
fn the_server_sees_our_name_for_it_and_our_certificate() {
    let (seen, sees) = mpsc::channel();
    let address = server(true, move |stream| {
        stream.write_all(b"hello")?;
        stream.flush()?;
        let name = stream.conn.server_name().map(str::to_owned);
        seen.send((name, stream.conn.peer_certificates().map(<[_]>::len))).map_err(std::io::Error::other)
    });
    on_both(async || {
        let clients = clients();
        let known = clients.get(true, Some(CLIENT), &[]).unwrap();
        for (name, sni) in [("server.example", Some("server.example")), ("127.0.0.1", None), ("", None)] {
            let stream = open(address, &known, name).await.unwrap();
            assert_eq!(&stream.recv().await.unwrap()[..], b"hello");
            assert_eq!(sees.recv().unwrap(), (sni.map(str::to_owned), Some(1)));
        }
        // without a certificate the server ends it, at the latest when we listen
        let unknown = clients.get(true, None, &[]).unwrap();
        match open(address, &unknown, "server.example").await {
            Err(_) => {}
            Ok(stream) => assert!(stream.recv().await.is_err()),
        }
        assert!(clients.get(true, Some((CLIENT.0, SERVER.1)), &[]).is_err(), "a key of someone else");
    });
}

#[test]
fn one_client_resumes_its_sessions_and_is_made_once() {
    let (kinds, kind) = mpsc::channel();
    let address = server(false, move |stream| {
        stream.write_all(b"x")?;
        stream.flush()?;
        kinds.send(stream.conn.handshake_kind()).map_err(std::io::Error::other)
    });
    on_both(async || {
        let clients = clients();
        let client = clients.get(true, None, &[b"http/1.1"]).unwrap();
        let mut seen = Vec::new();
        for _ in 0..2 {
            let stream = open(address, &client, "server.example").await.unwrap();
            assert_eq!(&stream.recv().await.unwrap()[..], b"x");
            seen.push(kind.recv().unwrap());
        }
        assert_eq!(seen, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
        assert!(Rc::ptr_eq(&client, &clients.get(true, None, &[b"http/1.1"]).unwrap()));
        assert!(!Rc::ptr_eq(&client, &clients.get(true, None, &[]).unwrap()));
    });
}

#[test]
fn an_end_without_close_notify_is_an_end() {
    let address = server(false, |stream| {
        stream.write_all(b"half")?;
        stream.flush()?;
        stream.sock.shutdown(std::net::Shutdown::Both)
    });
    on_both(async || {
        let client = clients().get(true, None, &[]).unwrap();
        let stream = open(address, &client, "server.example").await.unwrap();
        assert_eq!(&stream.recv().await.unwrap()[..], b"half");
        assert!(stream.recv().await.unwrap().is_empty());
    });
}

#[test]
fn a_silent_server_and_one_without_tls_fail_the_handshake() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let (silent_address, plain_address) = (silent.local_addr().unwrap(), plain.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut tcp in plain.incoming().flatten() {
            let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = tcp.read(&mut [0; 1024]);
        }
    });
    on_both(async || {
        let client = clients().get(false, None, &[]).unwrap();
        let began_ms = now_ms();
        let error = connect(&target(silent_address, &client, "a.example"), 150).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!((100..2000).contains(&(now_ms() - began_ms)));
        let error = open(plain_address, &client, "a.example").await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    });
}

#[test]
fn an_address_in_place_of_a_name_is_found_in_a_client_hello_of_two_pieces() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    on_both(async || {
        let client = clients().get(true, None, &[]).unwrap();
        let mut tls = ClientConnection::new(client.config(), "a.example".try_into().unwrap()).unwrap();
        let mut hello = Vec::new();
        tls.write_tls(&mut hello).unwrap();
        // the address has as many bytes as the name
        let at = hello.windows(9).position(|bytes| bytes == b"a.example").unwrap();
        hello[at..at + 9].copy_from_slice(b"192.0.2.1");
        let (first, second) = hello.split_at(100);

        let mut peer = Blocking::connect(listener.local_addr().unwrap()).unwrap();
        peer.write_all(first).unwrap();
        let tcp = crate::reactor::TcpStream::from_fd(listener.accept().unwrap().0.into()).unwrap();
        let begun = tcp.recv().await.unwrap();
        assert_eq!(&begun[..], first);
        tcp.unrecv(begun);
        peer.write_all(second).unwrap();

        let mut told = None;
        let choose = |name: Option<&str>| {
            told = name.map(str::to_owned);
            None::<Rc<Site>>
        };
        assert!(TlsStream::accept(tcp, choose, false, now_ms() + 5000).await.is_err());
        assert_eq!(told.as_deref(), Some("192.0.2.1"));
    });
}
