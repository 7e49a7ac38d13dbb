//! The per-core runtime: io_uring or epoll, tasks, timers, buffers, sockets, cross-core mailboxes. Nearly all `unsafe` is here.
