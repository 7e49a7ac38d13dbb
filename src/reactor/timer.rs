//! Waiting for a time.

use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::core::{self, Timer};
use super::wheel::Key;

/// Waits for at least `ms` milliseconds.
pub async fn sleep(ms: u32) {
    let at_ms = core::with(|core| core.now_ms()) + u64::from(ms);
    sleep_until(at_ms).await;
}

/// Waits until [`now_ms`](super::now_ms) is at least `at_ms`.
pub fn sleep_until(at_ms: u64) -> Sleep {
    Sleep { at_ms, key: None, _core: PhantomData }
}

/// The future of [`sleep_until`]; nothing is set before its first poll, and dropping it takes the timer out.
pub struct Sleep {
    at_ms: u64,
    key: Option<Key>,
    _core: PhantomData<Rc<()>>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        core::with(|core| {
            if core.now_ms() >= self.at_ms {
                self.cancel();
                return Poll::Ready(());
            }
            match self.key {
                Some(key) => core.retarget_timer(key, cx.waker()),
                None => self.key = Some(core.add_timer(self.at_ms, Timer::Wake(cx.waker().clone()))),
            }
            Poll::Pending
        })
    }
}

impl Sleep {
    fn cancel(&mut self) {
        if let Some(key) = self.key.take() {
            core::try_with(|core| drop(core.remove_timer(key)));
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.cancel();
    }
}
