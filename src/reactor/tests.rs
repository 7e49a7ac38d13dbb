//! The same behaviour on both drivers: each test runs on io_uring (where the host has it) and on epoll.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as Blocking};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::limits;

mod full;
mod pipes;
mod turns;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn small(driver: Driver) -> Config {
    Config { driver, ring_entries: 64, recv_buffers: 64, recv_buffer_bytes: 1024 }
}

/// Runs a future on each driver; ends the test run when it takes 20 s.
fn on_both<F: Future<Output = ()>>(test: impl Fn() -> F) {
    on_both_with(small, test);
}

fn on_both_with<F: Future<Output = ()>>(config: impl Fn(Driver) -> Config, test: impl Fn() -> F) {
    for driver in [Driver::Uring, Driver::Epoll] {
        let result = block_on(config(driver), |info| {
            assert_eq!(info.driver == DriverKind::Uring, driver == Driver::Uring);
            spawn(async move {
                sleep(20_000).await;
                eprintln!("{driver:?}: not done after 20 s; {:?}", stats());
                std::process::abort();
            });
            test()
        });
        match result {
            Ok(()) => {}
            Err(error) if driver == Driver::Uring => {
                eprintln!("io_uring is refused here, not tested: {error}")
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn listener() -> Rc<Listener> {
    Rc::new(Listener::bind(LOOPBACK, ListenOptions::default()).unwrap())
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = listener();
    let near = TcpStream::connect(listener.local_addr().unwrap(), 1000).await.unwrap();
    (near, TcpStream::from_fd(listener.accept().await.unwrap().into()).unwrap())
}

async fn recv_exactly(stream: &TcpStream, n: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < n {
        let mut chunk = stream.recv().await.unwrap();
        assert!(!chunk.is_empty(), "the stream ended after {} of {n} bytes", all.len());
        let ours = chunk.split_to(n - all.len());
        all.extend_from_slice(&ours);
        stream.unrecv(chunk);
    }
    all
}

async fn recv_to_end(stream: &TcpStream) -> usize {
    let mut n = 0;
    loop {
        let chunk = stream.recv().await.unwrap();
        if chunk.is_empty() {
            return n;
        }
        n += chunk.len();
    }
}

/// Resolves when `n` calls of the returned function were made.
fn countdown(n: usize) -> (impl Fn() + Clone, impl Future<Output = ()>) {
    let left = Rc::new(Cell::new(n));
    let seen = left.clone();
    let wait = async move {
        while seen.get() > 0 {
            sleep(1).await;
        }
    };
    (move || left.set(left.get() - 1), wait)
}

fn serve_echo(listener: Rc<Listener>) {
    spawn(async move {
        while let Ok(accepted) = listener.accept().await {
            let stream = TcpStream::from_fd(accepted.into()).unwrap();
            spawn(async move {
                while let Ok(chunk) = stream.recv().await {
                    if chunk.is_empty() {
                        break;
                    }
                    let mut head = take_buffer();
                    head.extend_from_slice(&chunk);
                    stream.send(head);
                }
                let _ = stream.flush().await;
            });
        }
    });
}

#[test]
fn many_connections_get_their_own_bytes_back() {
    on_both(|| async {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        serve_echo(listener.clone());
        let (done, all_done) = countdown(200);
        for n in 0..200u32 {
            let done = done.clone();
            spawn(async move {
                let stream = TcpStream::connect(address, 5000).await.unwrap();
                for round in 0..50u32 {
                    let message = format!("connection {n} round {round}").into_bytes();
                    stream.send(message.clone());
                    assert_eq!(recv_exactly(&stream, message.len()).await, message);
                }
                done();
            });
        }
        all_done.await;
        assert_eq!(panics(), 0);
        listener.stop();
    });
}

#[test]
fn what_is_sent_in_one_turn_arrives_in_order() {
    on_both(|| async {
        let (a, b) = pair().await;
        let mut expected = Vec::new();
        for n in 0..300u32 {
            let line = format!("{n}\n").into_bytes();
            expected.extend_from_slice(&line);
            a.send(Out::from(line).chunk(Chunk::from_static(b"-")));
            expected.push(b'-');
        }
        assert_eq!(a.queued_bytes(), expected.len());
        assert_eq!(recv_exactly(&b, expected.len()).await, expected);
        a.flush().await.unwrap();
        assert_eq!(a.queued_bytes(), 0);
    });
}

#[test]
fn a_half_closed_stream_still_sends() {
    on_both(|| async {
        let (a, b) = pair().await;
        a.send(&b"question"[..]);
        a.shutdown_write();
        assert_eq!(recv_to_end(&b).await, 8);
        assert!(b.recv().await.unwrap().is_empty(), "the end stays the end");
        b.send(&b"answer"[..]);
        b.flush().await.unwrap();
        assert_eq!(recv_exactly(&a, 6).await, b"answer");
    });
}

#[test]
fn a_reset_is_an_error_on_both_sides_of_the_stream() {
    on_both(|| async {
        let (a, b) = pair().await;
        a.set_linger_zero().unwrap();
        drop(a);
        assert_eq!(b.recv().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        b.send(&b"into the void"[..]);
        assert_eq!(b.flush().await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(b.sent().unwrap_err().kind(), ErrorKind::BrokenPipe);
        b.send(&b"again"[..]);
        assert!(b.flush().await.is_err());
        assert_eq!(b.queued_bytes(), 0);
    });
}

#[test]
fn a_refused_connect_is_an_error_and_a_silent_one_times_out() {
    on_both(|| async {
        let nobody = listener().local_addr().unwrap();
        sleep(5).await; // the listener is closed by the ring
        let refused = TcpStream::connect(nobody, 1000).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        // A listener with a full backlog does not answer.
        let options = ListenOptions { backlog: 0, ..ListenOptions::default() };
        let full = listen(LOOPBACK, options).unwrap();
        let address = full.local_addr().unwrap();
        let _first = TcpStream::connect(address, 1000).await.unwrap();
        let _second = TcpStream::connect(address, 100).await;
        let begin = Instant::now();
        let late = TcpStream::connect(address, 100).await.err().unwrap();
        assert_eq!(late.kind(), ErrorKind::TimedOut);
        assert!(begin.elapsed() >= Duration::from_millis(95), "{:?}", begin.elapsed());
    });
}

/// Copies as a proxy does: the next receive when the last send is done.
async fn copy(from: &TcpStream, to: &TcpStream, most_queued: &Cell<usize>) {
    from.expect_bulk(true);
    loop {
        let chunk = from.recv().await.unwrap();
        if chunk.is_empty() {
            return to.shutdown_write();
        }
        to.send(chunk);
        most_queued.set(most_queued.get().max(to.queued_bytes()));
        to.flush().await.unwrap();
    }
}

#[test]
fn a_slow_reader_holds_back_a_fast_sender() {
    const TOTAL: usize = 32 << 20;
    on_both(|| async {
        let (client, proxy_in) = pair().await;
        let (proxy_out, server) = pair().await;
        let most_queued = Rc::new(Cell::new(0));
        let most = most_queued.clone();
        spawn(async move { copy(&proxy_in, &proxy_out, &most).await });
        spawn(async move {
            let mut sent = 0;
            while sent < TOTAL {
                client.send(vec![(sent >> 16) as u8; 1 << 16]);
                client.flush().await.unwrap();
                sent += 1 << 16;
            }
            client.shutdown_write();
            assert!(client.recv().await.unwrap().is_empty());
        });
        sleep(50).await; // everything fills up
        let stalled = stats();
        sleep(50).await;
        assert!(stats().events < stalled.events + 20, "nothing moves while nobody reads");
        let mut n = 0;
        server.expect_bulk(true);
        loop {
            let chunk = server.recv().await.unwrap();
            if chunk.is_empty() {
                break;
            }
            assert!(chunk.len() <= limits::BULK_BUFFER);
            for byte in chunk.iter() {
                assert_eq!(*byte, (n >> 16) as u8);
                n += 1;
            }
        }
        assert_eq!(n, TOTAL);
        assert!(most_queued.get() <= limits::BULK_BUFFER, "{} bytes were queued", most_queued.get());
        assert_eq!(panics(), 0);
    });
}

#[test]
fn the_kind_of_receive_changes_without_loss() {
    on_both(|| async {
        let (a, b) = pair().await;
        spawn(async move {
            for n in 0..4000u32 {
                a.send(n.to_be_bytes().repeat(100));
                if n % 7 == 0 {
                    a.flush().await.unwrap();
                    yield_now().await;
                }
            }
            a.flush().await.unwrap();
            assert!(a.recv().await.unwrap().is_empty());
        });
        for n in 0..4000u32 {
            b.expect_bulk(n % 3 == 0);
            assert_eq!(recv_exactly(&b, 400).await, n.to_be_bytes().repeat(100));
        }
    });
}

#[test]
fn a_dropped_receive_loses_nothing() {
    on_both(|| async {
        let (a, b) = pair().await;
        for bulk in [false, true] {
            b.expect_bulk(bulk);
            for n in 0..100u8 {
                // Polled once, then dropped, with the operation in flight.
                std::future::poll_fn(|cx| {
                    let _ = std::pin::pin!(b.recv()).poll(cx);
                    Poll::Ready(())
                })
                .await;
                a.send(vec![n]);
                assert_eq!(recv_exactly(&b, 1).await, [n]);
            }
        }
    });
}

#[test]
fn a_stream_dropped_with_operations_in_flight_closes() {
    on_both(|| async {
        for bulk in [false, true] {
            let (a, b) = pair().await;
            b.expect_bulk(bulk);
            std::future::poll_fn(|cx| {
                assert!(b.poll_recv(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            b.send(vec![1; 64 << 20]); // more than the socket takes
            sleep(20).await;
            assert!(b.queued_bytes() > 0);
            drop(b);
            while let Ok(chunk) = a.recv().await {
                if chunk.is_empty() {
                    break;
                }
            }
        }
    });
}

#[test]
fn deadlines_of_a_stream_fire_and_can_be_moved() {
    on_both(|| async {
        let (a, b) = pair().await;
        let begin = now_ms();
        b.set_recv_deadline(Some(begin + 30));
        b.set_recv_deadline(Some(begin + 60));
        assert_eq!(b.recv().await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!((60..200).contains(&(now_ms() - begin)), "after {} ms", now_ms() - begin);
        b.set_recv_deadline(Some(now_ms() + 5000));
        b.set_recv_deadline(Some(now_ms() + 20));
        assert_eq!(b.recv().await.unwrap_err().kind(), ErrorKind::TimedOut);
        b.set_recv_deadline(None);
        a.send(&b"late"[..]);
        assert_eq!(recv_exactly(&b, 4).await, b"late", "the stream lives on");
        a.send(vec![0; 64 << 20]);
        a.set_send_deadline(Some(now_ms() + 30));
        assert_eq!(a.flush().await.unwrap_err().kind(), ErrorKind::TimedOut);
    });
}

#[test]
fn poll_closed_sees_the_peer_go_and_keeps_bytes() {
    on_both(|| async {
        for bulk in [false, true] {
            let (a, b) = pair().await;
            b.expect_bulk(bulk);
            let pending = std::future::poll_fn(|cx| Poll::Ready(b.poll_closed(cx).is_pending())).await;
            assert!(pending);
            a.send(&b"bye"[..]);
            a.flush().await.unwrap();
            sleep(5).await;
            assert!(bulk || b.has_buffered(), "bytes that nobody asked for are seen");
            drop(a);
            std::future::poll_fn(|cx| b.poll_closed(cx)).await;
            assert_eq!(recv_to_end(&b).await, 3);
        }
    });
}

#[test]
fn a_reset_wakes_poll_closed() {
    on_both(|| async {
        for bulk in [false, true] {
            let (a, b) = pair().await;
            b.expect_bulk(bulk);
            let b = Rc::new(b);
            let (done, gone) = countdown(1);
            let watched = b.clone();
            spawn(async move {
                std::future::poll_fn(|cx| watched.poll_closed(cx)).await;
                done();
            });
            sleep(5).await;
            a.set_linger_zero().unwrap();
            drop(a);
            gone.await;
            assert_eq!(b.recv().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    });
}

#[test]
fn more_unread_data_than_buffers_stops_nobody() {
    let config = |driver| Config { driver, ring_entries: 8, recv_buffers: 8, recv_buffer_bytes: 256 };
    on_both_with(config, || async {
        let mut holders = Vec::new();
        let mut held = Vec::new();
        for _ in 0..20 {
            let (a, b) = pair().await;
            a.send(vec![3; 2000]);
            // The reader takes one chunk, keeps it, and waits for more only later.
            held.push(b.recv().await.unwrap());
            holders.push((a, b));
        }
        for (_, b) in &holders {
            let _ = std::future::poll_fn(|cx| Poll::Ready(b.poll_closed(cx))).await;
        }
        sleep(5).await;
        let turns = stats().turns;
        sleep(50).await;
        assert!(stats().turns < turns + 100, "no spinning while the ring is empty");
        let (c, d) = pair().await;
        for n in 0..50u8 {
            c.send(vec![n; 700]);
            assert_eq!(recv_exactly(&d, 700).await, vec![n; 700]);
        }
        assert!(stats().ring_exhausted > 0);
        drop(held);
        for (a, b) in holders {
            drop(a);
            assert!(recv_to_end(&b).await < 2000);
        }
        c.send(&b"x"[..]);
        assert_eq!(recv_exactly(&d, 1).await, b"x");
    });
}

#[test]
fn more_completions_than_the_queue_holds_are_all_seen() {
    let config = |driver| Config { driver, ring_entries: 4, recv_buffers: 1024, recv_buffer_bytes: 64 };
    on_both_with(config, || async {
        let mut streams = Vec::new();
        for _ in 0..100 {
            streams.push(pair().await);
        }
        for round in 0..10u8 {
            for (a, b) in &streams {
                a.send(vec![round; 10]);
                b.send(vec![round; 10]);
            }
            for (a, b) in &streams {
                assert_eq!(recv_exactly(b, 10).await, [round; 10]);
                assert_eq!(recv_exactly(a, 10).await, [round; 10]);
            }
        }
    });
}

#[test]
fn a_mailbox_loses_no_message_and_no_wake_up() {
    const THREADS: u64 = 4;
    const EACH: u64 = 25_000;
    on_both(|| async {
        let (sender, receiver) = mailbox::<u64>(64);
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for n in 0..EACH {
                        let mut message = thread << 32 | n;
                        while let Err(SendError::Full(back)) = sender.try_send(message) {
                            message = back;
                            std::thread::yield_now();
                        }
                        if n % 1000 == 0 {
                            std::thread::sleep(Duration::from_millis(1)); // let the core sleep now and then
                        }
                    }
                })
            })
            .collect();
        drop(sender);
        let mut next = [0; THREADS as usize];
        while let Some(message) = receiver.recv().await {
            let (thread, n) = ((message >> 32) as usize, message & 0xffff_ffff);
            assert_eq!(n, next[thread], "in order per sender");
            next[thread] += 1;
        }
        assert_eq!(next, [EACH; THREADS as usize]);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn messages_between_two_cores_come_back_one_by_one() {
    on_both(|| async {
        let (to_there, there) = mailbox::<u32>(1);
        let (to_here, here) = mailbox::<u32>(1);
        let thread = std::thread::spawn(move || {
            block_on(small(Driver::Auto), |_| async move {
                while let Some(n) = there.recv().await {
                    to_here.try_send(n + 1).unwrap();
                }
            })
            .unwrap();
        });
        for n in 0..10_000 {
            to_there.try_send(n).unwrap();
            assert_eq!(here.recv().await, Some(n + 1));
        }
        drop(to_there);
        thread.join().unwrap();
        assert_eq!(here.recv().await, None);
    });
}

#[test]
fn a_closing_mailbox_loses_no_message() {
    for _ in 0..200 {
        let (sender, receiver) = mailbox(8);
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    let mut taken = 0;
                    loop {
                        match sender.try_send(()) {
                            Ok(()) => taken += 1,
                            Err(SendError::Full(())) => std::thread::yield_now(),
                            Err(SendError::Closed(())) => return taken,
                        }
                    }
                })
            })
            .collect();
        let mut received = 0;
        while received < 20 {
            received += u32::from(receiver.try_recv().is_some());
        }
        receiver.close();
        while receiver.try_recv().is_some() {
            received += 1;
        }
        let taken: u32 = senders.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!((received, receiver.try_recv()), (taken, None));
    }
}

#[test]
fn a_full_or_orphaned_mailbox_gives_the_message_back() {
    let (sender, receiver) = mailbox(1);
    assert_eq!(sender.try_send("a"), Ok(()));
    assert_eq!(sender.try_send("b"), Err(SendError::Full("b")));
    assert_eq!(receiver.try_recv(), Some("a"));
    drop(receiver);
    assert_eq!(sender.try_send("c"), Err(SendError::Closed("c")));
}

#[test]
fn a_waker_of_a_finished_runtime_does_no_harm() {
    let kept = RefCell::new(None);
    for _ in 0..3 {
        block_on(small(Driver::Epoll), |_| {
            std::future::poll_fn(|cx| {
                if let Some(old) = kept.replace(Some(cx.waker().clone())) {
                    std::thread::spawn(|| old.wake()).join().unwrap();
                }
                Poll::Ready(())
            })
        })
        .unwrap();
    }
    kept.take().unwrap().wake();
}

#[test]
fn a_panic_ends_its_task_only() {
    on_both(|| async {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let hook = heard.clone();
        on_panic(move |panic| {
            hook.borrow_mut().push(panic.downcast_ref::<&str>().map(|text| text.to_string()))
        });
        let (a, b) = pair().await;
        spawn(async move {
            let _held = b;
            yield_now().await;
            std::panic::panic_any("on purpose");
        });
        assert!(a.recv().await.unwrap().is_empty(), "the stream of the task is closed");
        assert_eq!((panics(), &*heard.borrow()), (1, &vec![Some("on purpose".to_string())]));
        let (done, other) = countdown(1);
        spawn(async move { done() });
        other.await;
    });
}

#[test]
fn a_panic_of_the_main_future_reaches_the_caller_and_drops_the_tasks() {
    for driver in [Driver::Auto, Driver::Epoll] {
        let task = Rc::new(());
        let held = task.clone();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            block_on(small(driver), |_| async move {
                spawn(async move {
                    let _held = held;
                    sleep(100_000).await;
                });
                yield_now().await;
                std::panic::panic_any("main");
            })
        }));
        assert_eq!(*result.unwrap_err().downcast::<&str>().unwrap(), "main");
        assert_eq!(Rc::strong_count(&task), 1);
        block_on(small(driver), |_| async {}).unwrap();
    }
}

#[test]
fn a_stopped_listener_drains_its_backlog() {
    on_both(|| async {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        let waiting = listener.clone();
        let (done, stopped) = countdown(1);
        spawn(async move {
            assert_eq!(waiting.accept().await.unwrap_err().kind(), ErrorKind::Interrupted);
            done();
        });
        sleep(5).await;
        listener.stop();
        stopped.await;
        let mut clients: Vec<Blocking> = (0..10).map(|_| Blocking::connect(address).unwrap()).collect();
        for _ in 0..10 {
            let stream = TcpStream::from_fd(listener.drain_backlog().unwrap().into()).unwrap();
            stream.send(&b"served"[..]);
            stream.flush().await.unwrap();
        }
        assert!(listener.drain_backlog().is_none());
        sleep(5).await; // the clients block this thread: let the streams be closed first
        for client in &mut clients {
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert_eq!(text, "served");
        }
        assert_eq!(listener.accept().await.unwrap_err().kind(), ErrorKind::Interrupted);
    });
}

#[test]
fn a_connection_moves_to_another_core() {
    on_both(|| async {
        let (to_there, there) = mailbox::<Accepted>(4);
        let thread = std::thread::spawn(move || {
            block_on(small(Driver::Auto), |_| async move {
                while let Some(accepted) = there.recv().await {
                    assert!(accepted.peer_addr().unwrap().ip().is_loopback());
                    let stream = TcpStream::from_fd(accepted.into()).unwrap();
                    let question = stream.recv().await.unwrap();
                    stream.send(question);
                    stream.flush().await.unwrap();
                    stream.shutdown_write();
                    assert!(stream.recv().await.unwrap().is_empty());
                }
            })
            .unwrap();
        });
        let listener = listener();
        let client = TcpStream::connect(listener.local_addr().unwrap(), 1000).await.unwrap();
        to_there.try_send(listener.accept().await.unwrap()).unwrap();
        drop(to_there);
        client.send(&b"who are you?"[..]);
        assert_eq!(recv_exactly(&client, 12).await, b"who are you?");
        client.shutdown_write();
        assert!(client.recv().await.unwrap().is_empty());
        thread.join().unwrap();
    });
}

#[test]
fn an_idle_stream_gives_its_descriptor_away_and_a_busy_one_does_not() {
    on_both(|| async {
        let (a, b) = pair().await;
        a.send(&b"for the next owner"[..]);
        let b = TcpStream::from_fd(b.into_fd().ok().unwrap()).unwrap();
        assert_eq!(recv_exactly(&b, 18).await, b"for the next owner");
        b.send(vec![0; 64 << 20]);
        assert!(b.into_fd().is_err());
    });
}

#[test]
fn sleeps_end_in_order_and_a_dropped_one_is_forgotten() {
    on_both(|| async {
        let order = Rc::new(RefCell::new(Vec::new()));
        let (done, all) = countdown(3);
        for ms in [30, 10, 20] {
            let (order, done) = (order.clone(), done.clone());
            spawn(async move {
                let begin = Instant::now();
                sleep(ms).await;
                assert!(begin.elapsed() >= Duration::from_millis(u64::from(ms) - 2), "{:?}", begin.elapsed());
                order.borrow_mut().push(ms);
                done();
            });
        }
        let mut long = Box::pin(sleep_until(now_ms() + 3_600_000));
        std::future::poll_fn(|cx| Poll::Ready(long.as_mut().poll(cx).is_pending())).await;
        drop(long);
        all.await;
        assert_eq!(*order.borrow(), [10, 20, 30]);
        assert_eq!(panics(), 0);
    });
}

#[test]
fn foreign_wakers_are_served() {
    // A waker that counts, as a combinator would have.
    struct Counting(AtomicU64);
    impl std::task::Wake for Counting {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    on_both(|| async {
        let counting = std::sync::Arc::new(Counting(AtomicU64::new(0)));
        let waker = counting.clone().into();
        let mut cx = std::task::Context::from_waker(&waker);
        let (a, b) = pair().await;
        assert!(b.poll_recv(&mut cx).is_pending());
        sleep(2).await;
        let before = counting.0.load(Ordering::Relaxed);
        a.send(&b"x"[..]);
        sleep(5).await;
        assert!(counting.0.load(Ordering::Relaxed) > before);
        assert!(matches!(b.poll_recv(&mut cx), Poll::Ready(Ok(chunk)) if &*chunk == b"x"));
    });
}

#[test]
fn streams_and_chunks_may_outlive_their_runtime() {
    for driver in [Driver::Auto, Driver::Epoll] {
        let (chunk, large, stream) = block_on(small(driver), |_| async {
            let (a, b) = pair().await;
            a.send(&b"kept"[..]);
            let chunk = b.recv().await.unwrap();
            b.expect_bulk(true);
            a.send(&b"large"[..]);
            let large = b.recv().await.unwrap();
            std::future::poll_fn(|cx| Poll::Ready(b.poll_recv(cx).is_pending())).await;
            (chunk, large, b)
        })
        .unwrap();
        assert_eq!((&*chunk, &*large), (&b"kept"[..], &b"large"[..]));
        stream.send(&b"nothing happens"[..]);
        let recv =
            block_on(small(driver), |_| async move { stream.recv().await.map(|chunk| chunk.len()) }).unwrap();
        assert!(matches!(recv, Ok(0) | Err(_)), "{recv:?}");
        drop((chunk, large));
    }
}

#[test]
fn a_blocking_client_is_answered_while_the_core_sleeps() {
    on_both(|| async {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        serve_echo(listener);
        let thread = std::thread::spawn(move || {
            let mut client = Blocking::connect(address).unwrap();
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(10));
                client.write_all(b"ping").unwrap();
                let mut answer = [0; 4];
                client.read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"ping");
            }
        });
        while !thread.is_finished() {
            sleep(5).await;
        }
        thread.join().unwrap();
    });
}

#[test]
fn refusals_are_told() {
    let wrong = Config { recv_buffers: 3, ..small(Driver::Epoll) };
    assert_eq!(block_on(wrong, |_| async {}).unwrap_err().kind(), ErrorKind::InvalidInput);
    let nested =
        block_on(small(Driver::Auto), |_| async { block_on(small(Driver::Auto), |_| async {}).is_err() });
    assert!(nested.unwrap());
}
