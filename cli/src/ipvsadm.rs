//! `shunt ipvsadm`, and `shunt` called as `ipvsadm`: the command lines, tables and exit codes of ipvsadm
//! 1.31 for what Shunt has, so that scripts and habits go on. What it has no counterpart of is refused
//! with the reason, never ignored; docs/ipvsadm.md lists every option.

pub(crate) mod grammar;
mod tables;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::BufRead;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use hyper::Method;
use serde_json::{Value, json};
use shunt_control::api::types::{
    Problem, ServerSpec, Service, ServiceSpec, Sessions, Template, Templates,
};
use shunt_service::{Destination, ServiceKey};

use self::grammar::{Command, Line, Named, Server, Settings};
use crate::client::{Client, escaped};
use crate::failure::Failure;
use crate::show::every_session;

/// Longest input of `-R`, bytes.
const RULES: u64 = 64 << 20;

/// Why a command is not done, with ipvsadm's exit code: 2 for a wrong command line, 255 for what the
/// kernel would refuse, 1 for a listing of what is not there.
#[derive(Debug)]
pub(crate) struct Refusal {
    code: u8,
    text: String,
}

impl Refusal {
    fn usage(text: impl Into<String>) -> Self {
        Self {
            code: 2,
            text: text.into(),
        }
    }

    fn kernel(text: impl Into<String>) -> Self {
        Self {
            code: 255,
            text: text.into(),
        }
    }

    /// Why.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Of what ipvsadm has and Shunt has not.
    fn not_built(why: &str) -> Self {
        Self::usage(format!("not with shunt: {why}"))
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(problem) => Self::kernel(first_mistake(&problem)),
            failure => Self {
                code: 4,
                text: failure.to_string(),
            },
        }
    }
}

fn first_mistake(problem: &Problem) -> String {
    let told = problem.errors.iter().map(|m| match &m.help {
        Some(help) => format!("{}: {help}", m.detail),
        None => m.detail.clone(),
    });
    let told: Vec<String> = told.collect();
    match told.is_empty() {
        true => problem
            .detail
            .clone()
            .unwrap_or_else(|| problem.title.clone()),
        false => told.join("\n"),
    }
}

/// Does what a command line of ipvsadm says.
pub(crate) fn run(socket: &Path, arguments: &[OsString]) -> ExitCode {
    let name = OsString::from("ipvsadm");
    let line = match Line::try_parse_from(core::iter::once(&name).chain(arguments)) {
        Ok(line) => line,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let done = Client::new(socket)
        .map_err(Refusal::from)
        .and_then(|client| obey(&client, &line));
    match done {
        Ok(text) => {
            use std::io::Write;
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            ExitCode::SUCCESS
        }
        Err(refusal) => {
            eprintln!("{}", refusal.text);
            ExitCode::from(refusal.code)
        }
    }
}

fn obey(client: &Client, line: &Line) -> Result<String, Refusal> {
    match line.command()? {
        Command::Version => Ok(tables::version()),
        Command::List(named) => list(client, line, named),
        Command::Save => Ok(tables::save(&all(client)?)),
        Command::Restore => restore(client, std::io::stdin().lock()),
        Command::Timeouts(seconds) => set_timeouts(client, seconds),
        Command::Zero(None) => Ok(client.post("/v1/zero").map(|()| String::new())?),
        Command::Zero(Some(named)) => match service(client, &named)? {
            Some(_) => Ok(client
                .post(&format!("{}/zero", path(&named)))
                .map(|()| String::new())?),
            None => Err(Refusal::kernel("No such service")),
        },
        Command::Clear => {
            for service in all(client)? {
                client.delete(&format!("/v1/services/{}", escaped(&service.key)))?;
            }
            Ok(String::new())
        }
        command => change(client, &command).map(|()| String::new()),
    }
}

fn all(client: &Client) -> Result<Vec<Service>, Refusal> {
    Ok(client.get("/v1/services")?)
}

fn list(client: &Client, line: &Line, named: Option<Named>) -> Result<String, Refusal> {
    let shown = line.shown();
    if shown.daemon {
        return Ok(String::new());
    }
    if shown.timeout {
        let all: BTreeMap<String, String> = client.get("/v1/timeouts")?;
        return Ok(tables::timeouts(&all));
    }
    if shown.connection {
        let sessions: Sessions = every_session(client, "")?;
        let templates = templates(client)?;
        return Ok(tables::sessions(&sessions.sessions, &templates, shown));
    }
    let templates = match shown.persistent_conn {
        true => templates(client)?,
        false => Vec::new(),
    };
    let services = match named {
        None => return Ok(tables::list(&all(client)?, &templates, shown, true)),
        Some(named) => match service(client, &named)? {
            Some(service) => vec![service],
            None => {
                return Err(Refusal {
                    code: 1,
                    text: "No such service".to_owned(),
                });
            }
        },
    };
    Ok(tables::list(&services, &templates, shown, false))
}

/// All templates of persistence.
fn templates(client: &Client) -> Result<Vec<Template>, Refusal> {
    let mut all = Vec::new();
    let mut path = "/v1/templates".to_owned();
    loop {
        let page: Templates = client.get(&path)?;
        all.extend(page.templates);
        match page.next {
            Some(next) => path = format!("/v1/templates?cursor={next}"),
            None => return Ok(all),
        }
    }
}

fn set_timeouts(client: &Client, seconds: [Option<u32>; 3]) -> Result<String, Refusal> {
    let names = ["tcp_established", "tcp_fin_wait", "udp"];
    let given = names.into_iter().zip(seconds);
    let body: BTreeMap<&str, String> = given
        .filter_map(|(name, seconds)| Some((name, format!("{}s", seconds?))))
        .collect();
    if !body.is_empty() {
        client.put::<Value>(Method::PATCH, "/v1/timeouts", &body)?;
    }
    Ok(String::new())
}

fn path(named: &Named) -> String {
    format!("/v1/services/{}", escaped(&named.key.name()))
}

/// The service, if it is there.
fn service(client: &Client, named: &Named) -> Result<Option<Service>, Refusal> {
    match client.get(&path(named)) {
        Ok(service) => Ok(Some(service)),
        Err(Failure::Refused(problem)) if problem.status == 404 => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

/// Commands out of a file, as `-S` writes them; the first that cannot be done ends it.
fn restore(client: &Client, input: impl BufRead) -> Result<String, Refusal> {
    for (n, text) in input.take(RULES).lines().enumerate() {
        let at = |refusal: Refusal| Refusal {
            text: format!("line {}: {}", n + 1, refusal.text),
            ..refusal
        };
        let text = text.map_err(|error| at(Refusal::usage(error.to_string())))?;
        let words = words(&text).ok_or_else(|| at(Refusal::usage("a quote is not closed")))?;
        if words.is_empty() {
            continue;
        }
        let name = "ipvsadm".to_owned();
        let line = Line::try_parse_from(core::iter::once(&name).chain(&words))
            .map_err(|error| at(Refusal::usage(error.to_string())))?;
        change(client, &line.command().map_err(at)?).map_err(at)?;
    }
    Ok(String::new())
}

/// The words of a rule: blanks part them, quotes keep them together, `#` begins a comment.
pub(crate) fn words(line: &str) -> Option<Vec<String>> {
    let (mut all, mut word, mut quoted): (Vec<String>, Option<String>, Option<char>) =
        (Vec::new(), None, None);
    for c in line.chars() {
        match (quoted, c) {
            (Some(quote), c) if c == quote => quoted = None,
            (None, '"' | '\'') => {
                quoted = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => all.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    all.extend(word);
    quoted.is_none().then_some(all)
}

fn change(client: &Client, command: &Command) -> Result<(), Refusal> {
    match command {
        Command::AddService(named, settings) => add_service(client, named, settings),
        Command::EditService(named, settings) => {
            if service(client, named)?.is_none() {
                return Err(Refusal::kernel("No such service"));
            }
            known(settings)?;
            let body = edited(settings);
            client.put::<Service>(Method::PATCH, &path(named), &body)?;
            Ok(())
        }
        Command::DeleteService(named) => match service(client, named)? {
            Some(_) => Ok(client.delete(&path(named))?),
            None => Err(Refusal::kernel("No such service")),
        },
        Command::AddServer(named, server) => {
            let there = servers_of(client, named)?;
            if there.contains(&server.address) {
                return Err(Refusal::kernel("Destination already exists"));
            }
            let spec = server_spec(server)?;
            let path = format!("{}/servers", path(named));
            client.put::<Value>(Method::POST, &path, &spec)?;
            Ok(())
        }
        Command::EditServer(named, server) => {
            let path = server_path(client, named, server.address)?;
            let spec = ServerSpec {
                address: None,
                ..server_spec(server)?
            };
            client.put::<Value>(Method::PATCH, &path, &spec)?;
            Ok(())
        }
        Command::DeleteServer(named, address) => {
            Ok(client.delete(&server_path(client, named, *address)?)?)
        }
        _ => Err(Refusal::usage(
            "only changes of services and servers are restored",
        )),
    }
}

fn servers_of(client: &Client, named: &Named) -> Result<Vec<core::net::SocketAddr>, Refusal> {
    let service = service(client, named)?;
    let service = service.ok_or_else(|| Refusal::kernel("Service not defined"))?;
    let present = service.servers.iter().filter(|s| s.status != "removed");
    Ok(present.map(|s| s.address).collect())
}

fn server_path(
    client: &Client,
    named: &Named,
    address: core::net::SocketAddr,
) -> Result<String, Refusal> {
    if !servers_of(client, named)?.contains(&address) {
        return Err(Refusal::kernel("No such destination"));
    }
    Ok(format!(
        "{}/servers/{}",
        path(named),
        escaped(&address.to_string())
    ))
}

/// Whether the scheduler is one.
fn known(settings: &Settings) -> Result<(), Refusal> {
    match shunt_control::config::is_scheduler(&settings.scheduler) {
        true => Ok(()),
        false => Err(Refusal::kernel("Scheduler or persistence engine not found")),
    }
}

fn add_service(client: &Client, named: &Named, settings: &Settings) -> Result<(), Refusal> {
    if service(client, named)?.is_some() {
        return Err(Refusal::kernel("Service already exists"));
    }
    known(settings)?;
    let seconds = |s: u32| format!("{s}s");
    let locals = settings.local_addresses.iter().map(ToString::to_string);
    let locals: Vec<String> = locals.collect();
    let mut spec = ServiceSpec {
        scheduler: Some(settings.scheduler.clone()),
        scheduler_flags: Some(settings.flags.clone()),
        // As ipvsadm's.
        mode: Some("dr".to_owned()),
        persistence: settings.persistence.map(seconds),
        persistence_prefix: settings.prefix.filter(|_| settings.persistence.is_some()),
        one_packet: settings.one_packet.then_some(true),
        local_addresses: (!locals.is_empty()).then_some(locals),
        ..ServiceSpec::default()
    };
    match named.key {
        ServiceKey::At(Destination { protocol, vip }) => {
            spec.protocol = Some(protocol.to_string());
            spec.vip = Some(vip.to_string());
        }
        ServiceKey::Set(name) => {
            if settings.matches.is_empty() {
                return Err(Refusal::not_built(
                    "there are no firewall marks; say what the service is for: --match \"tcp \
                     10.0.0.100:80\", which may be repeated",
                ));
            }
            spec.set = Some(name.to_string());
            spec.matches = Some(settings.matches.clone());
        }
    }
    client.put::<Service>(Method::POST, "/v1/services", &spec)?;
    Ok(())
}

/// What `-E` makes of a service: what it does not name is as in a new one.
fn edited(settings: &Settings) -> Value {
    let mut body = json!({
        "scheduler": settings.scheduler,
        "scheduler_flags": settings.flags,
        "persistence": settings.persistence.map(|s| format!("{s}s")),
        "persistence_prefix": settings.prefix,
        "one_packet": settings.one_packet.then_some(true),
    });
    if settings.persistence.is_none() {
        body["persistence_prefix"] = Value::Null;
        body["template_weight0"] = Value::Null;
    }
    // Those are Shunt's own, and stay unless they are named.
    if !settings.matches.is_empty() {
        body["match"] = json!(settings.matches);
    }
    if !settings.local_addresses.is_empty() {
        body["local_addresses"] = json!(settings.local_addresses);
    }
    body
}

fn server_spec(server: &Server) -> Result<ServerSpec, Refusal> {
    if server.lower > server.upper {
        return Err(Refusal::kernel("Numerical result out of range"));
    }
    Ok(ServerSpec {
        address: Some(server.address.to_string()),
        weight: Some(server.weight),
        mode: Some(server.mode.to_owned()),
        upper_threshold: Some(server.upper),
        lower_threshold: Some(server.lower),
        check: None,
    })
}
