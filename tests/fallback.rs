//! Where io_uring is refused, as Docker's default profile does, the gateway runs on epoll and says why.

mod common;

use std::collections::BTreeMap;

use common::*;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// `io_uring_setup(2)`: the same number on every architecture.
const IO_URING_SETUP: i64 = 425;

/// Refuses io_uring to this thread and to the processes that it starts from now on.
fn refuse_io_uring() {
    let rules = BTreeMap::from([(IO_URING_SETUP, Vec::new())]);
    let refused = SeccompAction::Errno(1); // EPERM, as Docker's profile answers
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

#[test]
fn without_io_uring_it_runs_on_epoll() {
    let upstream = Upstream::answering(ok("served"));
    let routes = everything_to(upstream.port);
    let start = move || {
        refuse_io_uring();
        Setup::new("auto", Source::Yaml(routes)).start()
    };
    let gateway = std::thread::spawn(start).join().unwrap();
    eventually("the line of the reactor", || gateway.banner().contains("reactor"));
    let banner = gateway.banner();
    let line = banner.lines().find(|line| line.contains("reactor")).unwrap();
    assert!(line.contains("epoll (") && line.contains("Operation not permitted"), "{line}");
    for _ in 0..20 {
        assert_eq!(gateway.get("/").text(), "served");
    }
}
