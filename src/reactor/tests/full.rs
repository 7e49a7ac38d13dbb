//! What happens at the bounds of a core's queues: nothing is lost.

use std::sync::{Arc, Mutex};
use std::task::Waker;

use super::*;

/// Bytes that wait in a connection at this address, or connections that wait in a listener there, and have not been taken
/// from the kernel.
fn held_by_kernel(local: SocketAddr, state: &str) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", local.port());
    let queues = table.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, at, _, is, queues, ..] if at.ends_with(&port) && is == state => queues.split_once(':'),
        _ => None,
    });
    usize::from_str_radix(queues.unwrap().1, 16).unwrap()
}

const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

#[test]
fn a_stream_that_nobody_reads_keeps_only_a_bounded_queue() {
    on_both(|| async {
        let (a, b) = pair().await;
        let at = b.local_addr().unwrap();
        let watch = Rc::new(b);
        let watched = watch.clone();
        spawn(async move { std::future::poll_fn(|cx| watched.poll_closed(cx)).await });
        // one by one: what comes in one breath, the kernel gives in one, whatever the bound
        for sent in 1..=60 {
            a.send(vec![7; 1000]);
            a.flush().await.unwrap();
            sleep(1).await;
            while held_by_kernel(at, ESTABLISHED) + watch.unread_bytes() < sent * 1000 {
                sleep(1).await;
            }
        }
        // one more may come before the receive that was cancelled has ended
        let unread = watch.unread_bytes();
        assert!(unread <= (limits::RECV_QUEUE + 1) * 1000, "{unread} bytes are taken that nobody reads");
        let before = stats().events;
        for _ in 0..140 {
            a.send(vec![7; 1000]);
        }
        a.flush().await.unwrap();
        sleep(30).await;
        let events = stats().events - before;
        assert!(events < 100, "{events} completions, though nobody reads");
        // 64 buffers of 1 KiB, of which this stream may take RECV_QUEUE (and what the kernel did in the same breath).
        let (c, d) = pair().await;
        c.send(&b"others still receive"[..]);
        assert_eq!(recv_exactly(&d, 20).await.len(), 20);
        assert_eq!(recv_exactly(&watch, 200_000).await, vec![7; 200_000]);
        drop(a);
        std::future::poll_fn(|cx| watch.poll_closed(cx)).await;
    });
}

/// More wake-ups from another thread than can be noted one by one: then every task is polled once.
#[test]
fn a_flood_of_wakes_from_another_thread_loses_none() {
    const TASKS: usize = limits::REMOTE_WAKES + 500;
    on_both(|| async {
        let wakers: Arc<Mutex<Vec<Waker>>> = Arc::default();
        let (woken, may_end) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        for _ in 0..TASKS {
            let (wakers, woken, may_end) = (wakers.clone(), woken.clone(), may_end.clone());
            spawn(std::future::poll_fn(move |cx| {
                if may_end.get() {
                    woken.set(woken.get() + 1);
                    return Poll::Ready(());
                }
                wakers.lock().unwrap().push(cx.waker().clone());
                Poll::Pending
            }));
        }
        yield_now().await;
        sleep(1).await;
        assert_eq!(wakers.lock().unwrap().len(), TASKS);
        may_end.set(true);
        // this core is busy until the other thread has woken all
        let waking = std::thread::spawn(move || {
            wakers.lock().unwrap().drain(..).for_each(Waker::wake);
        });
        waking.join().unwrap();
        while woken.get() < TASKS {
            sleep(1).await;
        }
    });
}

/// A core that is slow to accept takes so many connections from the kernel; the others wait there.
#[test]
fn connections_wait_for_a_core_that_does_not_accept() {
    const CONNECTIONS: usize = limits::ACCEPT_QUEUE + 100;
    let _ = raise_descriptor_limit(8192);
    on_both(|| async {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        // one is taken, so that the kernel hands over the others by itself
        let first = Blocking::connect(address).unwrap();
        drop(listener.accept().await.unwrap());
        let mut clients = vec![first];
        for _ in 0..CONNECTIONS {
            clients.push(Blocking::connect(address).unwrap());
            yield_now().await;
        }
        sleep(20).await;
        let held = held_by_kernel(address, LISTEN);
        assert!(held >= CONNECTIONS - limits::ACCEPT_QUEUE - 10, "{held} connections wait in the kernel");
        for _ in 0..CONNECTIONS {
            listener.accept().await.unwrap();
        }
    });
}
