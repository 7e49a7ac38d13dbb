//! The command line, on the real binary.

use std::process::{Command, Output};

fn ringway(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringway")).args(args).output().unwrap()
}

fn config(name: &str, text: &str) -> String {
    let path = std::env::temp_dir().join(format!("ringway-cli-{}-{name}.yaml", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn test_says_what_is_wrong_with_file_and_line() {
    let path = config("bad", "apisix:\n  node_listen: 9090\n  router:\n    http: tree\n");
    let out = ringway(&["test", "-c", &path]);
    assert_eq!(out.status.code(), Some(1));
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(text.contains(&format!("{path}:2: http listen port 9090 conflicts with control port")), "{text}");
    assert!(text.contains(&format!("{path}:4: invalid value \"tree\" of apisix.router.http")), "{text}");
}

#[test]
fn test_accepts_and_changes_nothing() {
    let text = "deployment:\n  admin:\n    admin_key: [{name: admin, key: '', role: admin}]\n";
    let path = config("good", text);
    let out = ringway(&["test", "-c", &path]);
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "configuration test is successful\n");
    assert!(String::from_utf8(out.stderr).unwrap().contains("the admin key \"admin\" is empty"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

/// t/cli/test_standalone.sh
#[test]
fn variables_of_apisix_yaml_must_be_there() {
    let conf = std::env::temp_dir().join(format!("ringway-cli-{}-objects", std::process::id()));
    std::fs::create_dir_all(&conf).unwrap();
    let text = "deployment: {role: data_plane, role_data_plane: {config_provider: yaml}}\n";
    std::fs::write(conf.join("config.yaml"), text).unwrap();
    let path = conf.join("config.yaml");
    let test = |objects: &str| {
        std::fs::write(conf.join("apisix.yaml"), objects).unwrap();
        let out = ringway(&["test", "-c", &path.to_string_lossy()]);
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, said) = test("routes:\n- uri: /${{RINGWAY_TEST_IS_NOWHERE}}\n#END\n");
    assert_eq!(code, Some(1));
    assert!(said.contains("can't find environment variable RINGWAY_TEST_IS_NOWHERE"), "{said}");
    let (code, said) = test("routes:\n- uri: [\n#END\n");
    assert!(code == Some(1) && said.contains("invalid apisix.yaml file"), "{said}");
    assert_eq!(test("routes:\n- uri: /${{RINGWAY_TEST_IS_NOWHERE:=a}}\n#END\n").0, Some(0));
    std::fs::remove_dir_all(conf).unwrap();
}

#[test]
fn wrong_words_are_refused() {
    let out = ringway(&["frobnicate"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8(out.stderr).unwrap().contains("unknown command \"frobnicate\""));
}

/// A folder with a gateway's configuration, on free ports; the gateway in it is stopped at the end.
struct Home(std::path::PathBuf, Vec<String>);

impl Home {
    fn new() -> Home {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners = [free(), free()];
        let [port, admin] = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
        let home = std::env::temp_dir().join(format!("ringway-verbs-{}-{port}", std::process::id()));
        std::fs::create_dir_all(home.join("conf")).unwrap();
        let text = format!(
            "apisix:\n  node_listen: [{{ip: 127.0.0.1, port: {port}}}]\n  enable_control: false\n  \
             ssl: {{enable: false}}\nnginx_config: {{worker_processes: 1}}\nplugin_attr:\n  prometheus: \
             {{enable_export_server: false}}\ndeployment:\n  role: traditional\n  role_traditional: \
             {{config_provider: embedded}}\n  admin:\n    admin_listen: {{ip: 127.0.0.1, port: {admin}}}\n"
        );
        let file = home.join("conf/config.yaml");
        std::fs::write(&file, text).unwrap();
        Home(home, vec!["-c".into(), file.to_string_lossy().into_owned()])
    }

    fn ringway(&self, verb: &str) -> Output {
        let mut args = vec![verb];
        args.extend(self.1.iter().map(String::as_str));
        ringway(&args)
    }

    fn pid(&self) -> Option<u32> {
        std::fs::read_to_string(self.0.join("logs/ringway.pid")).ok()?.trim().parse().ok()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.ringway("stop");
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_gateway_in_the_background() {
    let home = Home::new();
    let out = home.ringway("start");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && text.contains("is up"), "{text}{}", String::from_utf8_lossy(&out.stderr));
    let first = home.pid().expect("a pid file");
    let again = home.ringway("start");
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stdout).contains("the old ringway is still running"));
    assert!(home.ringway("restart").status.success());
    let second = home.pid().expect("a pid file");
    assert_ne!(first, second);
    assert!(home.ringway("reload").status.success());
    assert_eq!(home.pid(), Some(second), "a reload keeps the process");
    // A configuration that cannot be started harms neither the gateway that runs nor the way to stop it.
    let file = home.0.join("conf/config.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good + "discovery: [\n").unwrap();
    for verb in ["test", "reload", "restart"] {
        assert_eq!(home.ringway(verb).status.code(), Some(1), "{verb}");
    }
    assert_eq!(home.pid(), Some(second));
    assert!(home.ringway("stop").status.success());
    assert_eq!(home.pid(), None);
    let nobody = home.ringway("quit");
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no gateway runs"));
}
