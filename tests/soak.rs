//! The long run: load, changes and clients that leave, for `RINGWAY_SOAK_S` seconds (600) a driver; memory must
//! not grow, no request may fail. `tests/run --soak` runs it.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use serde_json::json;

#[test]
#[ignore = "minutes: tests/run --soak"]
fn soak() {
    let seconds = std::env::var("RINGWAY_SOAK_S").ok().and_then(|s| s.parse().ok()).unwrap_or(600);
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok(&"x".repeat(5000)));
        let gateway = Setup::new(driver, Source::Embedded).start();
        let node = format!("127.0.0.1:{}", upstream.port);
        gateway.put("/routes/1", &json!({"uri": "/*", "upstream": {"nodes": {node.clone(): 1}}}));
        let (stop, served): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (stop, served, port) = (stop.clone(), served.clone(), gateway.port());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let mut client = Client::connect(port);
                        for _ in 0..50 {
                            let post = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
                            assert_eq!(client.send(post).response().status, 200);
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                        // half a request, and it is gone
                        client.send("POST /left HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
                    }
                })
            })
            .collect();
        let began = Instant::now();
        let mut change = 0;
        let mut warm_kib = None;
        while began.elapsed() < Duration::from_secs(seconds) {
            change += 1;
            let object = json!({"uri": format!("/{change}"), "upstream": {"nodes": {node.clone(): 1}}});
            gateway.put("/routes/other", &object);
            std::thread::sleep(Duration::from_millis(20));
            if warm_kib.is_none() && began.elapsed() > Duration::from_secs(seconds) / 4 {
                warm_kib = Some(gateway.peak_kib());
            }
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("no request failed");
        }
        let (warm, last) = (warm_kib.unwrap(), gateway.peak_kib());
        println!(
            "{driver}: {} requests, {change} changes, {warm} KiB then {last} KiB",
            served.load(Ordering::Relaxed)
        );
        assert!(last < warm + (8 << 10), "memory grows: {warm} KiB became {last} KiB");
    });
}
