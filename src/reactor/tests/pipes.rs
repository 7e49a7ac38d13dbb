//! Bytes that pass through pipes: in order, bounded, and never lost on the way there or back.

use super::*;
use crate::reactor::{Arrived, core};

async fn piped(stream: &TcpStream, most: u64) -> std::io::Result<Arrived> {
    std::future::poll_fn(|cx| stream.poll_piped(cx, most)).await
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8 ^ (n >> 13) as u8).collect()
}

/// Passes everything on as it comes; returns how many bytes came in pipes.
async fn pass(from: &TcpStream, to: &TcpStream) -> usize {
    let mut in_pipes = 0;
    loop {
        let arrived = piped(from, u64::MAX).await.unwrap();
        if arrived.is_empty() {
            to.shutdown_write();
            return in_pipes;
        }
        if let Arrived::Piped(piped) = &arrived {
            assert!(piped.len() <= limits::PIPE_BYTES);
            in_pipes += piped.len();
        }
        to.send(arrived);
        assert!(to.queued_bytes() <= limits::PIPE_BYTES + 4, "a head, and one pipe");
        to.flush().await.unwrap();
    }
}

#[test]
fn bytes_pass_through_a_pipe_in_order() {
    const TOTAL: usize = 16 << 20;
    let all = Rc::new(bytes(TOTAL));
    on_both(|| async {
        let all = all.clone();
        let (client, proxy_in) = pair().await;
        let (proxy_out, server) = pair().await;
        let (done, all_done) = countdown(1);
        spawn(async move {
            // a head of our own, in memory, leaves before what is in a pipe
            proxy_out.send(&b"head"[..]);
            assert!(pass(&proxy_in, &proxy_out).await > TOTAL / 2);
            done();
        });
        let sent = all.clone();
        spawn(async move {
            for piece in sent.chunks(1 << 17) {
                client.send(piece.to_vec());
                client.flush().await.unwrap();
            }
            client.shutdown_write();
            assert!(client.recv().await.unwrap().is_empty());
        });
        sleep(50).await; // everything fills up
        let stalled = stats();
        sleep(50).await;
        assert!(stats().events < stalled.events + 20, "nothing moves while nobody reads");
        assert!(recv_exactly(&server, 4).await == b"head");
        assert!(recv_exactly(&server, TOTAL).await == *all);
        assert!(server.recv().await.unwrap().is_empty());
        all_done.await;
        core::with(|core| assert!(core.pipes.open() <= 2, "one at a time, and used again"));
        assert_eq!(panics(), 0);
    });
}

#[test]
fn without_a_pipe_bytes_come_as_chunks() {
    on_both(|| async {
        let (a, b) = pair().await;
        let mut held = Vec::new();
        for n in 0..limits::PIPES {
            a.send(vec![n as u8]);
            a.flush().await.unwrap();
            let Arrived::Piped(piped) = piped(&b, 1).await.unwrap() else { panic!("no pipe for byte {n}") };
            held.push(piped);
        }
        a.send(&b"more"[..]);
        let Arrived::Chunk(chunk) = piped(&b, 4).await.unwrap() else { panic!("one pipe too many") };
        assert_eq!(&*chunk, b"more");
        // one that is thrown away makes room, and nobody sees what was in it
        held.pop();
        a.send(&b"again"[..]);
        let Arrived::Piped(piped) = piped(&b, 5).await.unwrap() else { panic!("no room was made") };
        let (near, far) = pair().await;
        near.send(Arrived::Piped(piped));
        assert_eq!(recv_exactly(&far, 5).await, b"again");
    });
}

#[test]
fn pipes_and_chunks_take_turns_without_loss() {
    on_both(|| async {
        let (a, b) = pair().await;
        let (near, far) = pair().await;
        spawn(async move {
            for piece in bytes(400_000).chunks(1000) {
                a.send(piece.to_vec());
                if piece[0] % 7 == 0 {
                    a.flush().await.unwrap();
                    yield_now().await;
                }
            }
            a.flush().await.unwrap();
            assert!(a.recv().await.unwrap().is_empty());
        });
        let mut passed = 0;
        for n in 0.. {
            if passed == 400_000 {
                break;
            }
            let arrived = match n % 5 {
                0 => Arrived::Chunk(b.recv().await.unwrap()),
                1 => {
                    b.expect_bulk(n % 2 == 0);
                    Arrived::Chunk(b.recv().await.unwrap())
                }
                2 => {
                    b.expect_alike();
                    Arrived::Chunk(b.recv().await.unwrap())
                }
                _ => piped(&b, 1 + n % 3000).await.unwrap(),
            };
            passed += arrived.len();
            near.send(arrived);
            if n % 3 == 0 {
                near.flush().await.unwrap();
            }
        }
        near.flush().await.unwrap();
        assert!(recv_exactly(&far, 400_000).await == bytes(400_000));
    });
}

/// A kept connection whose last message came in pipes watches like any other, and takes no more than a head of the next.
#[test]
fn a_stream_at_rest_watches_and_takes_a_head_only() {
    on_both(|| async {
        let (a, b) = pair().await;
        a.send(bytes(100_000));
        let mut left = 100_000;
        while left > 0 {
            left -= piped(&b, left).await.unwrap().len() as u64;
        }
        b.expect_alike();
        let noop = std::task::Waker::noop();
        assert!(b.poll_recv(&mut std::task::Context::from_waker(noop)).is_pending());
        assert!(b.is_silent());
        a.send(bytes(100_000));
        a.flush().await.unwrap();
        while b.is_silent() {
            sleep(1).await;
        }
        let head = b.recv().await.unwrap();
        assert_eq!(&*head, &bytes(100_000)[..limits::PIPED_HEAD]);
        let rest = piped(&b, 100_000).await.unwrap();
        assert!(matches!(rest, Arrived::Piped(_)), "{rest:?}");
        drop(rest);
        drop(a);
        std::future::poll_fn(|cx| b.poll_closed(cx)).await;
    });
}

#[test]
fn who_does_not_take_what_is_in_a_pipe_meets_the_deadline() {
    on_both(|| async {
        let (a, b) = pair().await;
        let (near, far) = pair().await;
        spawn(async move {
            a.send(vec![1; 1 << 16]);
            while a.flush().await.is_ok() {
                a.send(vec![1; 1 << 16]);
            }
        });
        let error = loop {
            near.send(piped(&b, u64::MAX).await.unwrap());
            near.set_send_deadline(Some(now_ms() + 50));
            if let Err(error) = near.flush().await {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(far);
        near.set_send_deadline(Some(now_ms() + 5000));
        let error = near.flush().await.unwrap_err();
        assert_ne!(error.kind(), ErrorKind::TimedOut, "the reset is told");
        drop(near);
        assert_eq!(panics(), 0);
    });
}

/// A pipe gets nothing from before an urgent byte on; who sends one must neither stop its stream nor keep the core busy.
#[test]
fn an_urgent_byte_stops_no_pipe() {
    on_both(|| async {
        let listener = listener();
        let mut client = Blocking::connect(listener.local_addr().unwrap()).unwrap();
        let from = TcpStream::from_fd(listener.accept().await.unwrap().into()).unwrap();
        let (near, far) = pair().await;
        spawn(async move {
            pass(&from, &near).await;
        });
        client.write_all(&bytes(50_000)).unwrap();
        assert!(recv_exactly(&far, 50_000).await == bytes(50_000));
        socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap();
        client.write_all(&bytes(50_000)).unwrap();
        assert!(
            recv_exactly(&far, 50_000).await == bytes(50_000),
            "the urgent byte itself is not of the stream"
        );
        socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap();
        sleep(50).await;
        let before = stats();
        sleep(50).await;
        assert!(stats().events < before.events + 20, "nothing moves while nothing is sent");
        drop(client);
        assert!(far.recv().await.unwrap().is_empty());
    });
}
