//! Against a small name server on loopback.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::Hosts;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
use hickory_resolver::proto::rr::{Name as DnsName, RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::*;

/// What the mock name server says to one question.
#[derive(Clone)]
enum Say {
    Records(Vec<(&'static str, u32, RData)>),
    Code(ResponseCode),
    Nothing,
}

/// A mock name server: UDP only, answers from a table, counts what it is asked.
struct MockNameServer {
    address: std::net::SocketAddr,
    table: Arc<Mutex<HashMap<(String, RecordType), Say>>>,
    asked: Arc<AtomicUsize>,
}

impl MockNameServer {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = MockNameServer {
            address: socket.local_addr().unwrap(),
            table: Arc::default(),
            asked: Arc::default(),
        };
        let (table, asked) = (Arc::clone(&server.table), Arc::clone(&server.asked));
        tokio::spawn(async move {
            let mut datagram = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut datagram).await {
                let question = Message::from_vec(&datagram[..len]).unwrap();
                asked.fetch_add(1, Ordering::Relaxed);
                let query = question.queries[0].clone();
                let key = (query.name().to_string(), query.query_type());
                let say = table.lock().unwrap().get(&key).cloned();
                let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
                answer.add_query(query);
                match say.unwrap_or(Say::Code(ResponseCode::NXDomain)) {
                    Say::Nothing => continue,
                    Say::Code(code) => answer.metadata.response_code = code,
                    Say::Records(records) => {
                        answer.add_answers(records.into_iter().map(|(name, ttl, data)| {
                            Record::from_rdata(DnsName::from_utf8(name).unwrap(), ttl, data)
                        }));
                    }
                }
                let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
            }
        });
        server
    }

    fn say(&self, name: &str, record_type: RecordType, say: Say) {
        self.table.lock().unwrap().insert((name.to_owned(), record_type), say);
    }

    fn config(&self) -> DnsConfig {
        DnsConfig { nameservers: vec![self.address], valid: None, enable_ipv6: true, search: false }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn a(name: &'static str, ttl: u32, last: u8) -> (&'static str, u32, RData) {
    (name, ttl, RData::A(A::new(192, 0, 2, last)))
}

struct Running {
    orders: mpsc::Sender<Order>,
    deltas: mpsc::UnboundedReceiver<DnsDelta>,
}

impl Running {
    fn start(config: DnsConfig, hosts: &str) -> Self {
        let mut table = Hosts::default();
        table.read_hosts_conf(hosts.as_bytes()).unwrap();
        let (orders, receiver) = mpsc::channel(64);
        let (sender, deltas) = mpsc::unbounded_channel();
        let lookup = Lookup::with_hosts(config, table).unwrap();
        tokio::spawn(run(receiver, lookup, move |delta| sender.send(delta).unwrap()));
        Running { orders, deltas }
    }

    async fn using(&self, name: &str) {
        self.orders.send(Order::Use(name.into())).await.unwrap();
    }

    async fn next(&mut self) -> Vec<String> {
        let delta = tokio::time::timeout(Duration::from_secs(20), self.deltas.recv()).await;
        delta.unwrap().unwrap().addresses.iter().map(ToString::to_string).collect()
    }
}

#[tokio::test]
async fn a_names_addresses_come_through_cnames_and_follow_changes() {
    let server = MockNameServer::start().await;
    let cname = RData::CNAME(CNAME(DnsName::from_utf8("b.example.").unwrap()));
    let records = vec![("a.example.", 1, cname), a("b.example.", 60, 9), a("b.example.", 60, 3)];
    server.say("a.example.", RecordType::A, Say::Records(records));
    let mut dns = Running::start(server.config(), "");
    dns.using("a.example").await;
    assert_eq!(dns.next().await, ["192.0.2.3", "192.0.2.9"]);
    // the CNAME's TTL of 1 s is the shortest; the change is seen by then
    server.say("a.example.", RecordType::A, Say::Records(vec![a("a.example.", 1, 4)]));
    assert_eq!(dns.next().await, ["192.0.2.4"]);
}

#[tokio::test]
async fn aaaa_is_asked_for_where_there_is_no_a_and_ipv6_is_on() {
    let server = MockNameServer::start().await;
    let v6 = ("six.example.", 60, RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)));
    server.say("six.example.", RecordType::A, Say::Records(Vec::new()));
    server.say("six.example.", RecordType::AAAA, Say::Records(vec![v6]));
    let mut dns = Running::start(server.config(), "");
    dns.using("six.example").await;
    assert_eq!(dns.next().await, ["2001:db8::1"]);
    let mut without = Running::start(DnsConfig { enable_ipv6: false, ..server.config() }, "");
    without.using("six.example").await;
    assert!(without.next().await.is_empty());
}

#[tokio::test]
async fn hosts_come_first_and_ipv4_before_ipv6() {
    let server = MockNameServer::start().await;
    let mut dns = Running::start(server.config(), "::1 local.example\n127.0.0.9 local.example\n");
    dns.using("local.example").await;
    assert_eq!(dns.next().await, ["127.0.0.9"]);
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn stale_addresses_serve_while_the_name_server_fails_but_not_when_the_name_is_gone() {
    let server = MockNameServer::start().await;
    server.say("a.example.", RecordType::A, Say::Records(vec![a("a.example.", 1, 4)]));
    let mut dns = Running::start(server.config(), "");
    dns.using("a.example").await;
    assert_eq!(dns.next().await, ["192.0.2.4"]);
    for failure in [Say::Code(ResponseCode::ServFail), Say::Nothing] {
        server.say("a.example.", RecordType::A, failure.clone());
        server.say("a.example.", RecordType::AAAA, failure);
        let asked = server.asked();
        tokio::time::timeout(Duration::from_millis(1500), dns.deltas.recv()).await.unwrap_err();
        assert!(server.asked() > asked, "it goes on asking");
    }
    server.say("a.example.", RecordType::A, Say::Code(ResponseCode::NXDomain));
    server.say("a.example.", RecordType::AAAA, Say::Code(ResponseCode::NXDomain));
    assert!(dns.next().await.is_empty());
    server.say("a.example.", RecordType::A, Say::Records(vec![a("a.example.", 1, 5)]));
    assert_eq!(dns.next().await, ["192.0.2.5"]);
}

#[tokio::test]
async fn one_question_serves_all_users_and_the_last_ends_it() {
    let server = MockNameServer::start().await;
    server.say("a.example.", RecordType::A, Say::Records(vec![a("a.example.", 1, 4)]));
    let mut dns = Running::start(server.config(), "");
    dns.using("a.example").await;
    let _ = dns.next().await;
    dns.using("a.example").await;
    assert_eq!(dns.next().await, ["192.0.2.4"], "told again for the new user");
    assert_eq!(server.asked(), 1);
    for _ in 0..2 {
        dns.orders.send(Order::Release("a.example".into())).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(server.asked(), 1, "nobody uses it: nobody asks");
}

#[tokio::test]
async fn dns_resolver_valid_beats_the_ttl() {
    let server = MockNameServer::start().await;
    server.say("a.example.", RecordType::A, Say::Records(vec![a("a.example.", 3600, 4)]));
    let config = DnsConfig { valid: Some(Duration::from_secs(1)), ..server.config() };
    let mut dns = Running::start(config, "");
    dns.using("a.example").await;
    assert_eq!(dns.next().await, ["192.0.2.4"]);
    server.say("a.example.", RecordType::A, Say::Records(vec![a("a.example.", 3600, 5)]));
    assert_eq!(dns.next().await, ["192.0.2.5"]);
}

#[tokio::test]
async fn an_unresolvable_name_is_told_once() {
    let server = MockNameServer::start().await;
    let mut dns = Running::start(server.config(), "");
    dns.using("none.example").await;
    assert!(dns.next().await.is_empty());
    tokio::time::timeout(Duration::from_millis(1300), dns.deltas.recv()).await.unwrap_err();
}

/// A name server that is silent is not asked without end, and a name too many has no address rather than a place.
#[tokio::test]
async fn questions_and_names_have_bounds() {
    let server = MockNameServer::start().await;
    for n in 0..limits::DNS_NAMES {
        server.say(&format!("{n}.example."), RecordType::A, Say::Nothing);
    }
    let mut dns = Running::start(server.config(), "");
    for n in 0..limits::DNS_NAMES {
        dns.using(&format!("{n}.example")).await;
    }
    dns.using("one.more.example").await;
    assert!(dns.next().await.is_empty(), "told at once");
    // each is asked again when its time is over
    assert!(server.asked() <= 4 * limits::DNS_IN_FLIGHT, "{} questions", server.asked());
    dns.using("0.example").await;
    dns.orders.send(Order::Release("1.example".into())).await.unwrap();
    dns.using("there.is.room.again").await;
    let told = tokio::time::timeout(Duration::from_millis(300), dns.deltas.recv()).await;
    assert!(told.is_err(), "it waits for its answer, as the others do");
}

/// t/cli/cli.t
#[test]
fn name_servers_of_the_system_may_have_addresses_of_ipv6() {
    let text = "# This file was generated.\nnameserver 172.27.0.1\n\nnameserver fe80::215:5dff:fec5:8e1d\n";
    let (config, _) = hickory_resolver::system_conf::parse_resolv_conf(text).unwrap();
    let servers: Vec<String> = config.name_servers().iter().map(|server| server.ip.to_string()).collect();
    assert_eq!(servers, ["172.27.0.1", "fe80::215:5dff:fec5:8e1d"]);
}

/// t/cli/test_dns.sh
#[test]
fn the_resolver_is_told_what_config_yaml_says() {
    let text = "apisix: {dns_resolver: [127.0.0.1, '[::1]:5353'], dns_resolver_valid: 30, enable_ipv6: false, \
                enable_resolv_search_opt: false}\n";
    let told = |text: &str| DnsConfig::from(&crate::config::load_text(text, &|_| None).unwrap().config);
    let config = told(text);
    let servers: Vec<String> = config.nameservers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["127.0.0.1:53", "[::1]:5353"]);
    assert_eq!(
        (config.valid, config.enable_ipv6, config.search),
        (Some(Duration::from_secs(30)), false, false)
    );
    let config = told("");
    assert!(config.nameservers.is_empty() && config.valid.is_none() && config.enable_ipv6 && config.search);
}
