//! keepalived's checkers as `[service.check]`. A server of ours has one check: the first that can be
//! taken over.

use std::collections::BTreeMap;

use super::document::{Entry, Part, Value, text};
use super::report::Report;
use super::tree::Directive;
use super::values::{number, one, script, seconds, switch};

/// The checkers of keepalived.
pub(super) const CHECKERS: [&str; 10] = [
    "TCP_CHECK",
    "HTTP_GET",
    "SSL_GET",
    "SMTP_CHECK",
    "DNS_CHECK",
    "UDP_CHECK",
    "PING_CHECK",
    "MISC_CHECK",
    "BFD_CHECK",
    "FILE_CHECK",
];

/// Settings that a virtual server has for its real servers, and those for their checkers: ours, by key.
pub(super) type Settings = BTreeMap<&'static str, Entry>;

/// A server as its checkers see it.
#[derive(Clone, Copy)]
pub(super) struct Checked {
    /// Its address.
    pub(super) address: core::net::IpAddr,
    /// The port that keepalived would ask.
    pub(super) asked: Option<u16>,
    /// The port that our check would ask.
    pub(super) port: Option<u16>,
}

/// Reads a directive that is the same for virtual servers, real servers and checkers; whether it is one.
pub(super) fn setting(directive: &Directive, settings: &mut Settings, report: &mut Report) -> bool {
    let (key, value) = match directive.name.as_str() {
        "connect_timeout" => ("timeout", seconds(directive, report)),
        "retry" | "nb_get_retry" => ("retry", number(directive, report)),
        "delay_before_retry" => ("delay_before_retry", seconds(directive, report)),
        "delay_loop" => ("interval", seconds(directive, report)),
        "virtualhost" => ("host", one(directive, report).map(text)),
        "alpha" => {
            let word = |on| text(if on { "down" } else { "up" });
            ("start", switch(directive, report).map(word))
        }
        "inhibit_on_failure" => {
            let word = |on| text(if on { "inhibit" } else { "down" });
            ("on_failure", switch(directive, report).map(word))
        }
        "warmup" => {
            let why = "first checks are spread over the interval, two seconds at most, in any case";
            report.left(directive.at, &directive.title(), why);
            return true;
        }
        _ => return false,
    };
    if let Some(value) = value {
        let entry = Entry {
            key,
            value: Value::One(value),
            at: directive.at,
            name: directive.title(),
        };
        settings.insert(key, entry);
    }
    true
}

/// What one checker becomes; `None`: nothing, which has been told.
pub(super) fn check(
    directive: &Directive,
    of: Checked,
    outer: &Settings,
    report: &mut Report,
) -> Option<Part> {
    let mut made = Made {
        part: Part::new(directive.at, &directive.title()),
        settings: outer.clone(),
        of,
        good: true,
        report,
    };
    no_words(directive, made.report);
    match directive.name.as_str() {
        "TCP_CHECK" => made.tcp(directive),
        "HTTP_GET" => made.http(directive, false),
        "SSL_GET" => made.http(directive, true),
        "SMTP_CHECK" => made.smtp(directive),
        "DNS_CHECK" => made.dns(directive),
        "UDP_CHECK" => made.udp(directive),
        "PING_CHECK" => made.ping(directive),
        "MISC_CHECK" => made.misc(directive),
        "BFD_CHECK" => made.refuse(
            directive,
            "BFD runs in a routing daemon beside the director",
        ),
        _ => made.refuse(directive, "weights are not read out of files"),
    }
    made.good.then_some(made.part)
}

fn no_words(directive: &Directive, report: &mut Report) {
    if !directive.words.is_empty() {
        report.left(
            directive.at,
            &directive.title(),
            "words that do not belong to it",
        );
    }
}

struct Made<'a> {
    part: Part,
    settings: Settings,
    of: Checked,
    good: bool,
    report: &'a mut Report,
}

impl Made<'_> {
    fn left(&mut self, directive: &Directive, why: &str) {
        self.report.left(directive.at, &directive.title(), why);
    }

    /// Makes nothing of it.
    fn refuse(&mut self, directive: &Directive, why: &str) {
        if self.good {
            let why = format!("{why}; the server has no check of it");
            self.report.left(directive.at, &directive.title(), &why);
        }
        self.good = false;
    }

    /// What all checkers have that connect. `retry` and `delay` are keepalived's defaults.
    fn begin(&mut self, kind: &str, retry: u32, delay: Option<&str>) {
        self.part.put("type", text(kind));
        let takes_host = matches!(kind, "http" | "https");
        let interval = match self.settings.get("interval").map(|entry| &entry.value) {
            Some(Value::One(value)) => value.clone(),
            _ => text("60s"),
        };
        let timeout = if kind == "exec" {
            interval.clone()
        } else {
            text("5s")
        };
        let delay = delay.map_or_else(|| interval.clone(), text);
        let defaults = [
            ("interval", interval),
            ("timeout", timeout),
            ("rise", "1".to_owned()),
            ("fall", "1".to_owned()),
            ("retry", retry.to_string()),
            ("delay_before_retry", delay),
        ];
        for (key, value) in defaults {
            match self.settings.get(key) {
                // A script has a timeout of its own.
                Some(entry) if (key, kind) != ("timeout", "exec") => {
                    self.part.entries.push(entry.clone());
                }
                _ => self.part.put(key, value),
            }
        }
        for (key, usual) in [("start", "up"), ("on_failure", "down"), ("host", "")] {
            let Some(entry) = self.settings.get(key) else {
                continue;
            };
            if entry.value != Value::One(text(usual)) && (key != "host" || takes_host) {
                self.part.entries.push(entry.clone());
            }
        }
        let has_port = !matches!(kind, "icmp" | "exec");
        if let Some(port) = self.of.asked.filter(|_| has_port)
            && self.of.port != Some(port)
        {
            self.part.put("port", port.to_string());
        }
    }

    /// Reads what any checker may have; whether it is of that.
    fn common(&mut self, directive: &Directive) -> bool {
        match directive.name.as_str() {
            "connect_port" => {
                let port = number(directive, self.report).and_then(|port| port.parse().ok());
                self.of.asked = port.or(self.of.asked);
            }
            "connect_ip" => {
                let typed = one(directive, self.report).and_then(|ip| ip.parse().ok());
                if typed != Some(self.of.address) {
                    let why = "a check asks the server's own address, or the VIP on it (`via`)";
                    self.refuse(directive, why);
                }
            }
            "bindto" | "bind_if" | "bind_port" | "fwmark" => {
                let why =
                    "checks leave as the kernel's routes say: `ip route … src` chooses the address";
                self.left(directive, why);
            }
            "log_all_failures" => {
                self.left(
                    directive,
                    "the log has changes; `shunt servers` shows the last failure",
                );
            }
            _ => return setting(directive, &mut self.settings, self.report),
        }
        true
    }

    /// Reads a checker's block; what `own` does not take is told.
    fn block(&mut self, directive: &Directive, mut own: impl FnMut(&mut Self, &Directive) -> bool) {
        for inner in directive.inner() {
            if !own(self, inner) && !self.common(inner) {
                self.left(inner, "it is not known in this place");
            }
        }
    }

    fn tcp(&mut self, directive: &Directive) {
        self.block(directive, |_, _| false);
        self.begin("tcp", 1, Some("1s"));
    }

    fn ping(&mut self, directive: &Directive) {
        self.block(directive, |_, _| false);
        self.begin("icmp", 1, Some("1s"));
    }

    fn smtp(&mut self, directive: &Directive) {
        let why =
            "there is no check of SMTP: whether the port takes connections is checked instead";
        self.report.changed(directive.at, &directive.title(), why);
        self.block(directive, |made, inner| {
            let is_own = matches!(inner.name.as_str(), "helo_name" | "host");
            if is_own {
                made.left(inner, "nothing is said over the connection");
            }
            is_own
        });
        self.begin("tcp", 1, Some("1s"));
    }

    fn http(&mut self, directive: &Directive, secure: bool) {
        let mut urls = Vec::new();
        self.block(directive, |made, inner| {
            match inner.name.as_str() {
                "url" => urls.push(inner.clone()),
                "http_protocol" if inner.words == ["1.1"] => {}
                "http_protocol" => made.left(inner, "checks speak HTTP/1.1"),
                "fast_recovery" => made.left(inner, "a check asks for one URL"),
                "enable_sni" => drop(switch(inner, made.report)),
                _ => return false,
            }
            true
        });
        let mut own = Vec::new();
        for (n, url) in urls.iter().enumerate() {
            if n > 0 {
                self.left(url, "a check asks for one URL, the first");
                continue;
            }
            no_words(url, self.report);
            self.url(url, &mut own);
        }
        self.begin(if secure { "https" } else { "http" }, 1, Some("3s"));
        if own.iter().all(|entry| entry.key != "status") {
            self.part.put("status", "[\"200-299\"]".to_owned());
        }
        if secure {
            // keepalived verifies no certificate.
            self.part.put("verify", "false".to_owned());
        }
        self.part.entries.append(&mut own);
    }

    fn url(&mut self, url: &Directive, own: &mut Vec<Entry>) {
        let mut regex: Option<(&Directive, String)> = None;
        let mut options = String::new();
        let mut refused = None;
        let mut put = |key, value, from: &Directive| {
            own.push(Entry {
                key,
                value: Value::One(value),
                at: from.at,
                name: from.title(),
            });
        };
        for inner in url.inner() {
            match inner.name.as_str() {
                "path" => {
                    if let Some(path) = one(inner, self.report) {
                        put("path", text(path), inner);
                    }
                }
                "status_code" if !inner.words.is_empty() => {
                    let codes: Vec<String> = inner.words.iter().map(|code| text(code)).collect();
                    put("status", format!("[{}]", codes.join(", ")), inner);
                }
                "status_code" => self.left(inner, "it has no value"),
                "virtualhost" => drop(setting(inner, &mut self.settings, self.report)),
                "digest" => self.left(
                    inner,
                    "no digest is made of a page: `body` looks for a text in it",
                ),
                "regex" => {
                    let typed = one(inner, self.report);
                    regex = typed.map(|typed| (inner, typed.to_owned()));
                }
                "regex_options" => match letters(&inner.words) {
                    Some(letters) => options = letters,
                    None => refused = Some((inner, "an option that our expressions have not")),
                },
                "regex_no_match" => {
                    refused = Some((inner, "a page is never refused for what it has"))
                }
                "regex_min_offset" | "regex_max_offset" => {
                    self.left(inner, "the first 64 KiB of a page are looked at");
                }
                "regex_stack" => self.left(inner, "our expressions need no stack"),
                _ => self.left(inner, "it is not known in this place"),
            }
        }
        match (regex, refused) {
            (_, Some((inner, why))) => {
                self.left(inner, &format!("{why}; the page is not looked at"));
            }
            (Some((inner, typed)), None) => {
                put("body_regex", text(&format!("{options}{typed}")), inner)
            }
            (None, None) => {}
        }
    }

    fn dns(&mut self, directive: &Directive) {
        let (mut kind, mut name) = (None, None);
        self.block(directive, |made, inner| {
            match inner.name.as_str() {
                "type" => {
                    kind = one(inner, made.report).map(|word| (inner.clone(), word.to_owned()))
                }
                "name" => {
                    name = one(inner, made.report).map(|word| (inner.clone(), word.to_owned()))
                }
                _ => return false,
            }
            true
        });
        self.begin("dns", 3, None);
        let mut put = |key, given: Option<(Directive, String)>, usual: &str| match given {
            Some((from, word)) => self.part.put_from(from.at, &from.title(), key, text(&word)),
            None => self.part.put(key, text(usual)),
        };
        put("query", name, ".");
        put("query_type", kind, "SOA");
    }

    fn udp(&mut self, directive: &Directive) {
        let mut own: Vec<(&'static str, String, Directive)> = Vec::new();
        self.block(directive, |made, inner| {
            match inner.name.as_str() {
                "payload" => match bytes(&inner.words) {
                    Some(hex) => own.push(("payload_hex", text(&hex), inner.clone())),
                    None => made.left(inner, "these are no bytes in hexadecimal"),
                },
                "require_reply" => {
                    if !inner.words.is_empty() {
                        let why = "an answer must come; what it holds is not compared with bytes";
                        made.report.changed(inner.at, &inner.title(), why);
                    }
                    own.push(("require_reply", "true".to_owned(), inner.clone()));
                }
                "min_reply_length" | "max_reply_length" => {
                    made.left(inner, "the length of an answer is not looked at");
                }
                _ => return false,
            }
            true
        });
        self.begin("udp", 1, Some("1s"));
        for (key, value, from) in own {
            self.part.put_from(from.at, &from.title(), key, value);
        }
    }

    fn misc(&mut self, directive: &Directive) {
        let (mut path, mut timeout, mut dynamic) = (None, None, None);
        self.block(directive, |made, inner| {
            match inner.name.as_str() {
                "misc_path" => path = Some(inner.clone()),
                "misc_timeout" => timeout = seconds(inner, made.report).map(|s| (inner.clone(), s)),
                "misc_dynamic" => dynamic = Some(inner.clone()),
                "user" => made.left(inner, "programs run as the director does"),
                _ => return false,
            }
            true
        });
        if let Some(dynamic) = dynamic {
            return self.refuse(
                &dynamic,
                "a program does not set a weight, and any status but 0 is failure",
            );
        }
        let Some(path) = path else {
            return self.refuse(directive, "it has no misc_path");
        };
        self.begin("exec", 0, Some("1s"));
        if let Some((from, value)) = timeout
            && let Some(entry) = self.part.entries.iter_mut().find(|e| e.key == "timeout")
        {
            entry.value = Value::One(value);
            (entry.at, entry.name) = (from.at, from.title());
        }
        let words: Vec<String> = script(&path.words).iter().map(|word| text(word)).collect();
        let command = format!("[{}]", words.join(", "));
        self.part
            .put_from(path.at, &path.title(), "command", command);
    }
}

/// keepalived's options of expressions as flags of ours; `None`: one that has none.
fn letters(words: &[String]) -> Option<String> {
    let letter = |word: &String| match word.as_str() {
        "caseless" => Some('i'),
        "multiline" => Some('m'),
        "dotall" => Some('s'),
        "extended" => Some('x'),
        "ungreedy" => Some('U'),
        _ => None,
    };
    let letters: Option<String> = words.iter().map(letter).collect();
    letters.map(|letters| {
        if letters.is_empty() {
            letters
        } else {
            format!("(?{letters})")
        }
    })
}

/// keepalived's free form of hexadecimal bytes, in two digits each: a single digit stands for a byte.
fn bytes(words: &[String]) -> Option<String> {
    let mut hex = String::new();
    for word in words {
        if !word.chars().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        let mut digits = word.as_str();
        while !digits.is_empty() {
            let (byte, rest) = digits.split_at(digits.len().min(2));
            if byte.len() == 1 {
                hex.push('0');
            }
            hex.push_str(byte);
            digits = rest;
        }
    }
    (!hex.is_empty()).then_some(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_as_the_manual_reads_them() {
        let words: Vec<String> = "Ab12f 3 456 546443123"
            .split(' ')
            .map(str::to_owned)
            .collect();
        assert_eq!(
            bytes(&words).as_deref(),
            Some("Ab120f03450654644312".to_owned() + "03").as_deref()
        );
        assert_eq!(bytes(&["xy".to_owned()]), None);
    }

    #[test]
    fn options_become_flags() {
        assert_eq!(
            letters(&["caseless".into(), "dotall".into()]).as_deref(),
            Some("(?is)")
        );
        assert_eq!(letters(&["ucp".into()]), None);
    }
}
