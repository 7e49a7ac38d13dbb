//! The commands of the documents that people learn APISIX from, run with curl against the gateway as
//! `conf/config-seeds.yaml` sets it up: each gets the answer that APISIX 3.18 gives. `tests/seeds/commands.txt`
//! holds them as printed; `docs/getting-started.md` repairs the faulty ones, and its repairs run here too.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::{KEY, eventually, free_port};
use serde_json::Value;

/// Status and a part of the answer to each command, in their order.
const EXPECTED: [(u16, &str); 24] = [
    (201, r#""key":"/apisix/routes/kafka""#),
    // checked before the body is read, which is no JSON either (apisix/admin/init.lua)
    (400, r#"{"error_msg":"stream mode is disabled, can not add stream routes"}"#),
    (400, "invalid request body: Expected comma or object end but found T_STRING at character 98"),
    (404, r#"{"error_msg":"404 Route Not Found"}"#),
    (201, r#""key":"/apisix/routes/1""#),
    (201, r#""key":"/apisix/services/200""#),
    (201, r#""key":"/apisix/routes/100""#),
    (201, r#""key":"/apisix/routes/101""#),
    (201, r#""key":"/apisix/routes/102""#),
    (201, r#""key":"/apisix/upstreams/1""#),
    (200, r#""upstream_id":1"#),
    (200, r#""39.97.63.215:80":1"#),
    (400, "invalid request body: Expected comma or object end but found T_STRING at character 285"),
    (201, r#""username":"jack""#),
    (200, r#""hash_on":"consumer""#),
    (400, BLANKS),
    (400, BLANKS),
    (200, r#""username":"jack""#),
    (200, r#""uri":"/hello""#),
    (200, r#""consumer-restriction":{"#),
    (201, r#""key":"/apisix/global_rules/1""#),
    (401, r#""description":"missing apikey""#),
    (201, r#""key":"/apisix/plugin_configs/1""#),
    (200, r#""plugin_config_id":1"#),
];

/// Which of the three unknown keys APISIX names depends on the order of a Lua table; here it is the first.
const BLANKS: &str =
    r#"property \"upstream\" validation failed: additional properties forbidden, found type ""#;

/// The same for the repaired commands, by number.
const REPAIRED: [(usize, u16, &str); 7] = [
    // right now, but without a stream proxy
    (2, 400, "stream mode is disabled, can not add stream routes"),
    (3, 200, r#""username":"user""#),
    (4, 201, r#""key":"/apisix/ssls/1""#),
    (13, 200, r#""http_path":"/status""#),
    (16, 200, r#""hash_on":"cookie""#),
    (17, 200, r#""hash_on":"header""#),
    (22, 200, r#""key":"/apisix/global_rules/1""#),
];

/// The gateway in a folder of its own, gone with the test.
struct Gateway {
    folder: PathBuf,
    port: u16,
    child: Child,
}

impl Gateway {
    /// `conf/config-seeds.yaml` on free ports.
    fn start() -> Gateway {
        let folder = std::env::temp_dir().join(format!("ringway-seeds-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("conf")).unwrap();
        fs::create_dir_all(folder.join("logs")).unwrap();
        let [port, tls, control, metrics] = [(); 4].map(|()| free_port());
        let config = fs::read_to_string("conf/config-seeds.yaml").unwrap();
        assert!(config.contains("9080") && config.contains("\napisix:\n") && config.contains(KEY));
        let more = format!(
            "\napisix:\n  control: {{ip: 127.0.0.1, port: {control}}}\n  ssl: {{listen: [{{ip: 127.0.0.1, port: {tls}}}]}}\n"
        );
        let config = config.replace("9080", &port.to_string()).replacen("\napisix:\n", &more, 1)
            + &format!("plugin_attr: {{prometheus: {{export_addr: {{ip: 127.0.0.1, port: {metrics}}}}}}}\n");
        fs::write(folder.join("conf/config-seeds.yaml"), config).unwrap();
        for file in ["server.pem", "server.key.pem"] {
            fs::copy(format!("src/transport/tests/{file}"), folder.join(file)).unwrap();
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringway"))
            .env("APISIX_PROFILE", "seeds")
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_up = lines.by_ref().map_while(Result::ok).any(|line| line.ends_with(" is up"));
        std::thread::spawn(move || lines.for_each(drop));
        let gateway = Gateway { folder, port, child };
        assert!(is_up, "the gateway ended at its start");
        gateway
    }

    /// Runs a command of a shell; the answer's status and all that curl printed.
    fn run(&self, command: &str) -> (u16, String) {
        let command = format!("{} -s -w '\\n%{{http_code}}'", self.address(command));
        let output = Command::new("sh").args(["-c", &command]).current_dir(&self.folder).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let (answer, status) = text.rsplit_once('\n').unwrap_or_default();
        let status = status.parse();
        let status =
            status.unwrap_or_else(|_| panic!("{command}\n{}", String::from_utf8_lossy(&output.stderr)));
        (status, answer.to_owned())
    }

    /// The object that was written, as it is shown afterwards. The answer names it.
    fn stored(&self, answer: &str) -> Value {
        let json = answer.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
        let key = json.and_then(|json| json["key"].as_str()?.strip_prefix("/apisix/").map(str::to_owned));
        let key = key.unwrap_or_else(|| panic!("no key of an object in {answer}"));
        let path = format!("http://127.0.0.1:9080/apisix/admin/{key}");
        let (_, shown) = self.run(&format!("curl {path} -H 'X-API-KEY: {KEY}'"));
        serde_json::from_str::<Value>(&shown).unwrap_or_default()["value"].take()
    }

    /// Host and key filled in.
    fn address(&self, command: &str) -> String {
        let here = format!("http://127.0.0.1:{}", self.port);
        ["http://127.0.0.1:9080", "http://127.0.0.1:9180", "https://{apisix_listen_address}"]
            .iter()
            .fold(command.replace("${api-key}", KEY), |text, printed| text.replace(printed, &here))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.folder.join("logs/error.log")).unwrap_or_default());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The commands as a shell can run them. Three were damaged when the documents became plain text: the address
/// of the third and its last quote are gone, the fourth stands in a comment above its body, and the line ends
/// of the 21st, so that its backslashes no longer join lines.
fn commands() -> Vec<String> {
    let text = fs::read_to_string("tests/seeds/commands.txt").unwrap();
    let printed = text.split("\n== ").skip(1);
    let mut commands: Vec<String> =
        printed.map(|command| command.split_once('\n').unwrap().1.trim_end().to_owned()).collect();
    commands[2] = commands[2].replace("''", "http://127.0.0.1:9080/apisix/admin/routes/kafka") + "'";
    let (comment, body) = commands[3].split_once('\n').unwrap();
    commands[3] = format!("{} -H 'X-API-KEY: {KEY}' -d '{body}'", comment.trim_start_matches("// "));
    commands[20] = commands[20].replace("\\  ", "\\\n  ");
    commands
}

/// What a command sends; `None` where the shell makes it.
fn body(command: &str) -> Option<Value> {
    let text = command.split_once("-d '")?.1.rsplit_once('\'')?.0;
    Some(serde_json::from_str(text).expect("an accepted body is JSON"))
}

/// All that was sent is there; more may stand beside it.
fn is_in(sent: &Value, stored: &Value) -> bool {
    match (sent, stored) {
        (Value::Object(sent), Value::Object(stored)) => {
            sent.iter().all(|(name, sent)| stored.get(name).is_some_and(|stored| is_in(sent, stored)))
        }
        _ => sent == stored,
    }
}

/// The shell blocks of docs/getting-started.md that begin with `# command N`.
fn repaired() -> Vec<(usize, String)> {
    let text = fs::read_to_string("docs/getting-started.md").unwrap();
    let blocks = text.split("```sh\n# command ").skip(1);
    blocks
        .map(|block| {
            let (number, command) = block.split_once('\n').unwrap();
            (number.trim().parse().unwrap(), command.split_once("\n```").unwrap().0.to_owned())
        })
        .collect()
}

#[test]
fn the_commands_of_the_documents_get_the_answers_of_apisix() {
    let gateway = Gateway::start();
    let log = gateway.folder.join("logs/error.log");
    eventually("the log names a plugin that this build has not", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.lines().any(|line| line.contains("ringway has not yet") && line.contains(" kafka-logger,"))
    });
    let commands = commands();
    assert_eq!(commands.len(), EXPECTED.len());
    let mut wrong = Vec::new();
    let mut check = |name: String, command: &str, status: u16, part: &str| {
        let (got, answer) = gateway.run(command);
        let types = answer.lines().filter(|line| line.starts_with("Content-Type:")).count();
        assert!(types <= 1, "{answer}");
        if got != status || !answer.contains(part) {
            wrong.push(format!("{name}: expected {status} with {part}\n  {command}\n  {got} {answer}"));
        } else if let Some(sent) = (got < 300).then(|| body(command)).flatten() {
            let stored = gateway.stored(&answer);
            if !is_in(&sent, &stored) {
                wrong.push(format!("{name}: {sent} is stored as {stored}"));
            }
        }
    };
    for (at, (command, (status, part))) in commands.iter().zip(EXPECTED).enumerate() {
        check(format!("command {}", at + 1), command, status, part);
    }
    let repaired = repaired();
    assert_eq!(
        repaired.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
        REPAIRED.map(|(number, ..)| number)
    );
    for ((number, command), (_, status, part)) in repaired.iter().zip(REPAIRED) {
        check(format!("command {number}, repaired"), command, status, part);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
