//! Where io_uring is refused, as Docker's default profile does, or is older than what is needed of it, the gateway runs on
//! epoll and says why.

mod common;

use std::collections::BTreeMap;

use common::*;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// `io_uring_setup(2)` and `io_uring_register(2)`: the same numbers on every architecture.
const IO_URING_SETUP: i64 = 425;
const IO_URING_REGISTER: i64 = 427;

/// Answers a call of this thread, and of the processes that it starts from now on, with an error.
fn refuse(call: i64, errno: u32) {
    let rules = BTreeMap::from([(call, Vec::new())]);
    let refused = SeccompAction::Errno(errno);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

#[test]
fn without_io_uring_it_runs_on_epoll() {
    for (who, call, errno, said) in [
        ("Docker's profile", IO_URING_SETUP, 1, "Operation not permitted"),
        ("a kernel without it", IO_URING_SETUP, 38, "Function not implemented"),
        ("a kernel before 6.1, which does not know its flags", IO_URING_SETUP, 22, "Invalid argument"),
        ("a limit of locked memory", IO_URING_SETUP, 12, "Cannot allocate memory"),
        ("a kernel before 5.19, which has no rings of buffers", IO_URING_REGISTER, 22, "Invalid argument"),
    ] {
        println!("{who}");
        let upstream = Upstream::answering(ok("served"));
        let routes = everything_to(upstream.port);
        let start = move || {
            refuse(call, errno);
            Setup::new("auto", Source::Yaml(routes)).start()
        };
        let gateway = std::thread::spawn(start).join().unwrap();
        eventually("the line of the reactor", || gateway.banner().contains("reactor"));
        let banner = gateway.banner();
        let line = banner.lines().find(|line| line.contains("reactor")).unwrap();
        assert!(line.contains("epoll (") && line.contains(said), "{line}");
        for _ in 0..20 {
            assert_eq!(gateway.get("/").text(), "served");
        }
    }
}
