//! Bounded queues into a core, from other cores and other threads.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crossbeam_queue::ArrayQueue;

struct Shared<T> {
    queue: ArrayQueue<T>,
    /// The receiver has found the queue empty and wants to be woken.
    waiting: AtomicBool,
    waker: Mutex<Option<Waker>>,
    senders: AtomicUsize,
    receiver_gone: AtomicBool,
}

impl<T> Shared<T> {
    /// The fence pairs with that of `poll_recv` (Dekker): either we see `waiting`, or the receiver, which looks
    /// into the queue once more after it said so, sees what we did before.
    fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) && self.waiting.swap(false, Ordering::AcqRel) {
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

/// The sending side; any thread may have one.
pub struct Sender<T>(Arc<Shared<T>>);

/// The receiving side, for one task.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    _one_task: PhantomData<std::cell::Cell<()>>,
}

/// Why a message was not taken; it is given back.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError<T> {
    /// `bound` messages wait already.
    Full(T),
    /// Nobody will ever receive it.
    Closed(T),
}

/// A queue of at most `bound` messages (at least one). Sending costs no system call unless the receiving core
/// sleeps.
pub fn mailbox<T: Send>(bound: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(bound.max(1)),
        waiting: AtomicBool::new(false),
        waker: Mutex::new(None),
        senders: AtomicUsize::new(1),
        receiver_gone: AtomicBool::new(false),
    });
    (Sender(shared.clone()), Receiver { shared, _one_task: PhantomData })
}

impl<T: Send> Sender<T> {
    /// Puts a message into the queue, or gives it back: never waits. No message is lost while the receiver closes:
    /// it has either the receiver or one of the senders.
    ///
    /// # Errors
    /// `Full` or `Closed`, with the message, or with another one that was on its way when the receiver closed.
    pub fn try_send(&self, message: T) -> Result<(), SendError<T>> {
        let shared = &*self.0;
        if shared.receiver_gone.load(Ordering::Acquire) {
            return Err(SendError::Closed(message));
        }
        shared.queue.push(message).map_err(SendError::Full)?;
        shared.notify();
        // After notify's fence, which pairs with that of `close`: either we see that it is closed, or the receiver
        // sees what we pushed.
        if shared.receiver_gone.load(Ordering::Relaxed)
            && let Some(message) = shared.queue.pop()
        {
            return Err(SendError::Closed(message));
        }
        Ok(())
    }
}

impl<T> Sender<T> {
    /// Is the receiver gone, or does it take no more?
    pub fn is_closed(&self) -> bool {
        self.0.receiver_gone.load(Ordering::Acquire)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.notify();
        }
    }
}

impl<T> Receiver<T> {
    /// A message, if one is there.
    pub fn try_recv(&self) -> Option<T> {
        self.shared.queue.pop()
    }

    /// Takes no more. What came before is still there for [`Receiver::try_recv`].
    pub fn close(&self) {
        self.shared.receiver_gone.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The next message; None when all senders are gone and the queue is empty.
    pub async fn recv(&self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// See [`Receiver::recv`].
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let shared = &*self.shared;
        if let Some(message) = shared.queue.pop() {
            return Poll::Ready(Some(message));
        }
        *shared.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        shared.waiting.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let gone = shared.senders.load(Ordering::Acquire) == 0;
        match shared.queue.pop() {
            Some(message) => {
                shared.waiting.store(false, Ordering::Relaxed);
                Poll::Ready(Some(message))
            }
            None if gone => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.close();
        while self.shared.queue.pop().is_some() {}
    }
}
