//! How much one turn of a core's loop does before the kernel is asked what else has come.

use super::*;

#[test]
fn tasks_that_wake_each_other_without_end_do_not_starve_sockets() {
    on_both(|| async {
        spawn(async {
            loop {
                std::future::poll_fn({
                    let mut again = true;
                    move |cx| {
                        cx.waker().wake_by_ref();
                        if std::mem::take(&mut again) { Poll::Pending } else { Poll::Ready(()) }
                    }
                })
                .await;
            }
        });
        let (a, b) = pair().await;
        a.send(&b"through"[..]);
        assert_eq!(recv_exactly(&b, 7).await, b"through");
        sleep(10).await;
    });
}

#[test]
fn sends_that_are_taken_at_once_do_not_starve_sockets() {
    on_both(|| async {
        let (a, b) = pair().await;
        let sent = Rc::new(Cell::new(0));
        let counted = sent.clone();
        spawn(async move {
            loop {
                a.send(&b"x"[..]);
                a.flush().await.unwrap();
                counted.set(counted.get() + 1);
            }
        });
        assert!(!b.recv().await.unwrap().is_empty());
        assert!(sent.get() <= 100, "{} sends before the first was seen", sent.get());
    });
}
