//! The command line, on the real binary.

mod common;

use std::net::TcpStream;
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
    assert!(text.ends_with("\nconfiguration test failed\n"), "{text}");
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
    // A reload has it listen where the file says now, and keeps the process.
    let file = home.0.join("conf/config.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    let more = common::free_port();
    let good = good.replace("node_listen: [", &format!("node_listen: [{{ip: 127.0.0.1, port: {more}}}, "));
    std::fs::write(&file, &good).unwrap();
    assert!(home.ringway("reload").status.success());
    common::eventually("the new port", || TcpStream::connect(("127.0.0.1", more)).is_ok());
    assert_eq!(home.pid(), Some(second));
    // A configuration that cannot be started harms neither the gateway that runs nor the way to stop it.
    std::fs::write(&file, format!("{good}discovery: [\n")).unwrap();
    for verb in ["test", "reload", "restart"] {
        assert_eq!(home.ringway(verb).status.code(), Some(1), "{verb}");
    }
    assert_eq!(home.pid(), Some(second));
    assert!(home.ringway("stop").status.success());
    assert_eq!(home.pid(), None);
    std::fs::write(&file, &good).unwrap();
    assert!(home.ringway("start").status.success());
    assert!(home.ringway("quit").status.success());
    common::eventually("its end", || home.pid().is_none());
    let nobody = home.ringway("quit");
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no gateway runs"));
}

/// t/cli/test_cmd.sh
#[test]
fn a_pid_file_that_was_left_behind_is_no_gateway() {
    let home = Home::new();
    let file = home.0.join("logs/ringway.pid");
    std::fs::create_dir_all(home.0.join("logs")).unwrap();
    // that of a process that is no gateway, too: nobody stops it
    for left in ["-1\n".to_owned(), "\n".to_owned(), format!("{}\n", std::process::id())] {
        std::fs::write(&file, &left).unwrap();
        let nobody = home.ringway("stop");
        assert_eq!(nobody.status.code(), Some(1), "{left}");
        assert!(String::from_utf8_lossy(&nobody.stderr).contains("no gateway runs"), "{left}");
        assert!(home.ringway("start").status.success(), "{left}");
        assert!(home.ringway("stop").status.success(), "{left}");
    }
}

/// t/cli/test_cmd.sh
#[test]
fn starts_that_failed_are_no_hindrance_and_any_file_can_be_started() {
    let home = Home::new();
    let default = std::fs::read_to_string(home.0.join("conf/config.yaml")).unwrap();
    let start = |file: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        let out = command.args(["start", "-c", file]).current_dir(&home.0).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    };
    let other = home.0.join("conf/other.yaml");
    let no_etcd = default.replace("{config_provider: embedded}", "{config_provider: etcd}").replace(
        "deployment:\n",
        &format!("deployment:\n  etcd: {{host: 'http://127.0.0.1:{}'}}\n", common::free_port()),
    );
    assert!(no_etcd.contains("etcd: {host"));
    for (text, why) in
        [("abc", "it is no mapping"), (no_etcd.as_str(), "no etcd of"), (no_etcd.as_str(), "no etcd of")]
    {
        std::fs::write(&other, text).unwrap();
        let (up, said) = start("conf/other.yaml");
        assert!(!up && said.contains(why), "{said}");
    }
    let (up, said) = start("conf/nowhere.yaml");
    assert!(!up && said.contains("conf/nowhere.yaml: failed to read the configuration"), "{said}");
    let more = common::free_port();
    let elsewhere =
        default.replace("node_listen: [", &format!("node_listen: [{{ip: 127.0.0.1, port: {more}}}, "));
    for (file, is_other) in [("conf/config.yaml", false), ("conf/other.yaml", true)] {
        std::fs::write(&other, &elsewhere).unwrap();
        let (up, said) = start(file);
        assert!(up, "{said}");
        assert_eq!(TcpStream::connect(("127.0.0.1", more)).is_ok(), is_other, "{file}");
        // found by the folder of its file: a name need not be said again
        let stop =
            Command::new(env!("CARGO_BIN_EXE_ringway")).arg("stop").current_dir(&home.0).output().unwrap();
        assert!(stop.status.success(), "{file}: {stop:?}");
    }
}

/// t/cli/test_standalone_yaml_format.sh
#[test]
fn a_profile_has_files_of_its_own() {
    let home = std::env::temp_dir().join(format!("ringway-cli-{}-profile", std::process::id()));
    let conf = home.join("conf");
    std::fs::create_dir_all(&conf).unwrap();
    std::fs::write(conf.join("config.yaml"), "broken: [\n").unwrap();
    let text = "deployment: {role: data_plane, role_data_plane: {config_provider: yaml}}\n";
    std::fs::write(conf.join("config-prod.yaml"), text).unwrap();
    std::fs::write(conf.join("apisix.yaml"), "broken: [\n#END\n").unwrap();
    let test = |profile: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        let command = command.arg("test").current_dir(&home).env("APISIX_STAND_ALONE", "true");
        let out = command.env("APISIX_PROFILE", profile).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    assert_eq!(test("prod"), (Some(0), String::new()), "its objects may come later");
    std::fs::write(conf.join("apisix-prod.yaml"), "routes: [\n#END\n").unwrap();
    let (code, said) = test("prod");
    assert!(code == Some(1) && said.contains("conf/apisix-prod.yaml"), "{said}");
    let (code, said) = test("");
    assert!(code == Some(1) && said.starts_with("conf/config.yaml:"), "{said}");
    std::fs::remove_dir_all(home).unwrap();
}
