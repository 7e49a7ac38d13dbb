//! `nginx_config.*_configuration_snippet`: raw nginx text, of which the common directives are honoured.

use super::types::{AddHeader, Http, NextUpstream, RealIpSource};
use super::units;

/// One directive of nginx text.
#[derive(Debug, PartialEq)]
pub struct Directive {
    /// Name and arguments, quotes taken off.
    pub words: Vec<String>,
    /// Line within the snippet, from 0.
    pub line: u32,
    /// It opens a `{ … }` block, which is skipped whole.
    pub block: bool,
}

/// Splits nginx text into directives. Comments are dropped; what has no `;` at its end is an error, with
/// its line.
pub fn parse(text: &str) -> Result<Vec<Directive>, (u32, String)> {
    let mut found = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let (mut line, mut start, mut depth) = (0u32, 0u32, 0u32);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\n' {
            line += 1;
        }
        match c {
            '#' if word.is_none() => {
                while chars.peek().is_some_and(|c| *c != '\n') {
                    chars.next();
                }
            }
            '"' | '\'' if word.is_none() => {
                if words.is_empty() {
                    start = line;
                }
                words.push(
                    quoted(&mut chars, c, &mut line).ok_or((start, "a quote is not closed".to_owned()))?,
                );
            }
            ';' | '{' | '}' if !(c == '{' && word.as_deref().is_some_and(|w| w.ends_with('$'))) => {
                words.extend(word.take());
                match c {
                    '{' => {
                        if depth == 0 {
                            found.push(Directive {
                                words: std::mem::take(&mut words),
                                line: start,
                                block: true,
                            });
                        }
                        depth += 1;
                    }
                    '}' if depth == 0 => return Err((line, "unexpected \"}\"".to_owned())),
                    '}' => depth -= 1,
                    _ if depth == 0 && !words.is_empty() => {
                        found.push(Directive {
                            words: std::mem::take(&mut words),
                            line: start,
                            block: false,
                        });
                    }
                    _ => {}
                }
                words.clear();
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => {
                if words.is_empty() && word.is_none() {
                    start = line;
                }
                let word = word.get_or_insert_default();
                match c {
                    '\\' => word.extend(chars.next()),
                    '{' => {
                        // ${name}: up to its brace
                        word.push(c);
                        for c in chars.by_ref() {
                            word.push(c);
                            if c == '}' || c == '\n' {
                                break;
                            }
                        }
                    }
                    c => word.push(c),
                }
            }
        }
    }
    if depth > 0 || word.is_some() || !words.is_empty() {
        return Err((start, "unexpected end of text, expecting \";\" or \"}\"".to_owned()));
    }
    Ok(found)
}

fn quoted(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    quote: char,
    line: &mut u32,
) -> Option<String> {
    let mut word = String::new();
    loop {
        match chars.next()? {
            '\\' => match chars.next()? {
                c @ ('"' | '\'' | '\\') => word.push(c),
                'n' => word.push('\n'),
                't' => word.push('\t'),
                'r' => word.push('\r'),
                c => word.extend(['\\', c]),
            },
            '\n' => {
                *line += 1;
                word.push('\n');
            }
            c if c == quote => return Some(word),
            c => word.push(c),
        }
    }
}

/// What [`apply`] did with a directive.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// It took effect.
    Done,
    /// It is accepted and needs nothing here (buffers that ringway sizes by itself).
    NoNeed,
    /// ringway does not know it.
    Unknown,
    /// It is known, its arguments are wrong.
    Wrong(String),
}

/// Puts one directive of an http, server or location snippet into effect.
pub fn apply(directive: &Directive, http: &mut Http) -> Outcome {
    let Some((name, args)) = directive.words.split_first() else { return Outcome::Unknown };
    if directive.block {
        return Outcome::Unknown;
    }
    match set(name, args, http) {
        Some(outcome) => outcome,
        None => Outcome::Wrong(format!("invalid value in \"{}\"", directive.words.join(" "))),
    }
}

/// `None` for wrong arguments.
fn set(name: &str, args: &[String], http: &mut Http) -> Option<Outcome> {
    let first = args.first().map(String::as_str);
    let ms = || units::time_ms(first?);
    let bytes = || units::size_bytes(first?);
    let number = || first?.parse::<u32>().ok();
    match name {
        "client_max_body_size" => http.client_max_body_bytes = bytes()?,
        "client_body_buffer_size" => http.client_body_buffer_bytes = bytes()?,
        "client_header_buffer_size" => http.client_header_buffer_bytes = bytes()?,
        "large_client_header_buffers" => {
            http.large_client_header_buffers = number().filter(|n| *n > 0)?;
            http.large_client_header_buffer_bytes = units::size_bytes(args.get(1)?).filter(|n| *n > 0)?;
        }
        "keepalive_timeout" => http.keepalive_timeout_ms = ms()?,
        "keepalive_requests" => http.keepalive_requests = u64::from(number()?),
        "client_header_timeout" => http.client_header_timeout_ms = ms()?,
        "client_body_timeout" => http.client_body_timeout_ms = ms()?,
        "send_timeout" => http.send_timeout_ms = ms()?,
        "underscores_in_headers" => http.underscores_in_headers = on_off(first?)?,
        "ignore_invalid_headers" => http.ignore_invalid_headers = on_off(first?)?,
        "real_ip_header" => http.real_ip.source = real_ip_source(first?),
        "real_ip_recursive" => http.real_ip.recursive = on_off(first?)?,
        "set_real_ip_from" if first? == "unix:" => {}
        "set_real_ip_from" => http.real_ip.from.push(units::net(first?)?),
        "add_header" => http.add_headers.push(AddHeader {
            name: first?.to_owned(),
            value: args.get(1)?.clone(),
            always: args.get(2).is_some_and(|a| a == "always"),
        }),
        "proxy_connect_timeout" => http.proxy.connect_timeout_ms = ms()?,
        "proxy_send_timeout" => http.proxy.send_timeout_ms = ms()?,
        "proxy_read_timeout" => http.proxy.read_timeout_ms = ms()?,
        "proxy_next_upstream" => http.proxy.next_upstream = next_upstream(args)?,
        "proxy_next_upstream_tries" => http.proxy.next_upstream_tries = number()?,
        "proxy_next_upstream_timeout" => http.proxy.next_upstream_timeout_ms = ms()?,
        "proxy_ssl_verify" => http.proxy_ssl_verify = on_off(first?)?,
        "proxy_buffers"
        | "proxy_buffer_size"
        | "proxy_busy_buffers_size"
        | "proxy_temp_file_write_size"
        | "proxy_max_temp_file_size"
        | "proxy_headers_hash_max_size"
        | "proxy_headers_hash_bucket_size"
        | "variables_hash_max_size"
        | "variables_hash_bucket_size"
        | "types_hash_max_size"
        | "server_names_hash_max_size"
        | "server_names_hash_bucket_size"
        | "tcp_nodelay"
        | "tcp_nopush"
        | "sendfile" => return Some(Outcome::NoNeed),
        _ => return Some(Outcome::Unknown),
    }
    Some(Outcome::Done)
}

/// `on` and `off`.
pub fn on_off(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// The argument of `real_ip_header`.
pub fn real_ip_source(text: &str) -> RealIpSource {
    match text {
        "proxy_protocol" => RealIpSource::ProxyProtocol,
        name => RealIpSource::Header(name.to_ascii_lowercase()),
    }
}

fn next_upstream(args: &[String]) -> Option<NextUpstream> {
    let mut new = NextUpstream {
        error: false,
        timeout: false,
        invalid_header: false,
        non_idempotent: false,
        statuses: Vec::new(),
    };
    for arg in args {
        match arg.as_str() {
            "error" => new.error = true,
            "timeout" => new.timeout = true,
            "invalid_header" => new.invalid_header = true,
            "non_idempotent" => new.non_idempotent = true,
            "updating" => {}
            "off" => return Some(NextUpstream { error: false, timeout: false, statuses: Vec::new(), ..new }),
            other => {
                let status = other.strip_prefix("http_")?.parse().ok()?;
                if !matches!(status, 403 | 404 | 429 | 500 | 502 | 503 | 504) {
                    return None;
                }
                new.statuses.push(status);
            }
        }
    }
    if args.is_empty() { None } else { Some(new) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;

    #[test]
    fn nginx_text_is_split() {
        let text = "# comment; here\nadd_header X-A \"a b; c\" always; send_timeout 5s;\n\
                    location /x {\n  return 200 'x}';\n}\nset $a ${b}c;\nlog_format\n  x 'it\\'s';\n";
        let found: Vec<(u32, bool, String)> =
            parse(text).unwrap().into_iter().map(|d| (d.line, d.block, d.words.join("|"))).collect();
        assert_eq!(
            found,
            vec![
                (1, false, "add_header|X-A|a b; c|always".to_owned()),
                (1, false, "send_timeout|5s".to_owned()),
                (2, true, "location|/x".to_owned()),
                (5, false, "set|$a|${b}c".to_owned()),
                (6, false, "log_format|x|it's".to_owned()),
            ]
        );
        assert_eq!(parse("send_timeout 5s").unwrap_err().0, 0);
        assert!(parse("a b;\n}").is_err() && parse("a {\n").is_err() && parse("a 'b;").is_err());
    }

    fn http(snippet: &str) -> (Http, Vec<String>) {
        let indented = snippet.replace('\n', "\n    ");
        let text =
            format!("nginx_config:\n  http_configuration_snippet: |\n    {indented}\napisix: {{ssl: ~}}\n");
        let loaded = load_text(&text, &|_| None).unwrap();
        (loaded.config.http, loaded.notes.into_iter().map(|n| n.to_string()).collect())
    }

    #[test]
    fn common_directives_take_effect() {
        let (http, notes) = http(
            "client_max_body_size 8m;\nproxy_read_timeout 3s;\nproxy_next_upstream error http_502 non_idempotent;\n\
             proxy_next_upstream_tries 2;\nset_real_ip_from 10.0.0.0/8;\nreal_ip_header X-Forwarded-For;\n\
             real_ip_recursive on;\nlarge_client_header_buffers 8 16k;\nunderscores_in_headers off;\n\
             ignore_invalid_headers off;\nproxy_ssl_verify on;\nadd_header X-A $host always;\nproxy_buffers 8 16k;\nclient_body_timeout 500ms;",
        );
        assert_eq!(http.client_max_body_bytes, 8 << 20);
        assert_eq!(http.proxy.read_timeout_ms, 3000);
        let next = &http.proxy.next_upstream;
        assert!(next.error && !next.timeout && next.non_idempotent);
        assert_eq!(next.statuses, [502]);
        assert!(http.proxy_ssl_verify);
        assert_eq!(http.proxy.next_upstream_tries, 2);
        assert_eq!(http.real_ip.from.len(), 2);
        assert_eq!(http.real_ip.source, RealIpSource::Header("x-forwarded-for".into()));
        assert!(http.real_ip.recursive && !http.underscores_in_headers && !http.ignore_invalid_headers);
        assert_eq!((http.large_client_header_buffers, http.large_client_header_buffer_bytes), (8, 16384));
        assert_eq!(
            http.add_headers,
            vec![AddHeader { name: "X-A".into(), value: "$host".into(), always: true }]
        );
        assert_eq!(http.client_body_timeout_ms, 500);
        assert!(notes.is_empty(), "{notes:?}");
    }

    /// t/cli/test_snippet.sh
    #[test]
    fn each_snippet_may_be_there() {
        let text = "nginx_config:\n  main_configuration_snippet: |\n    daemon on;\n  http_configuration_snippet: |\n    \
                    chunked_transfer_encoding on;\n  http_server_configuration_snippet: |\n    send_timeout 3s;\n  \
                    http_server_location_configuration_snippet: |\n    client_body_timeout 4s;\n  \
                    http_admin_configuration_snippet: |\n    log_format admin \"$request_time $pipe\";\n  \
                    http_end_configuration_snippet: |\n    server_names_hash_bucket_size 128;\n    \
                    keepalive_timeout 5s;\n  stream_configuration_snippet: |\n    tcp_nodelay off;\n    \
                    proxy_timeout 6s;\n";
        let loaded = load_text(text, &|_| None).unwrap();
        let (http, streams) = (&loaded.config.http, &loaded.config.streams);
        assert_eq!((http.send_timeout_ms, http.client_body_timeout_ms), (3000, 4000));
        assert_eq!((http.keepalive_timeout_ms, streams.timeout_ms), (5000, 6000));
        let notes: Vec<String> = loaded.notes.iter().map(ToString::to_string).collect();
        let named = |line: u32, directive: &str, snippet: &str| {
            format!(
                "line {line}: directive \"{directive}\" of nginx_config.{snippet} has no effect in ringway"
            )
        };
        assert_eq!(
            notes,
            [
                named(3, "daemon", "main_configuration_snippet"),
                named(5, "chunked_transfer_encoding", "http_configuration_snippet"),
                named(11, "log_format", "http_admin_configuration_snippet"),
            ]
        );
    }

    #[test]
    fn others_are_named_with_their_line() {
        let (_, notes) = http("gzip on;\nserver {\n  listen 1;\n}");
        assert_eq!(
            notes,
            vec![
                "line 3: directive \"gzip\" of nginx_config.http_configuration_snippet has no effect in ringway",
                "line 4: directive \"server\" of nginx_config.http_configuration_snippet has no effect in ringway",
            ]
        );
    }
}
