//! The configuration reader: what a good file becomes, what bad ones are told, and that no input
//! makes it panic.

use miette::{GraphicalReportHandler, GraphicalTheme};
use proptest::prelude::*;
use shunt_control::config::{self, Config, Machine, Mirror, edit, server_to_json, service_to_json};
use shunt_service::{InterfaceId, Mode, OnRemoved, PortId, TcpState};

/// A machine with cores 0 to 3, whatever the test runs on.
fn machine() -> Machine {
    Machine {
        cores: Some((0..4).collect()),
    }
}

fn parse(text: &str) -> Result<Config, String> {
    config::parse("shunt.toml", text, &machine()).map_err(|invalid| {
        let mut out = String::new();
        GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
            .with_width(100)
            .render_report(&mut out, invalid.as_ref())
            .expect("a String takes everything");
        out
    })
}

/// What the operator is told about each file in `tests/config`.
#[test]
fn every_mistake_is_told_with_its_place_and_what_is_right() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for path in files {
        let text = std::fs::read_to_string(&path).expect("it can be read");
        let told = parse(&text).map_or_else(|told| told, |_| "accepted".to_owned());
        let name = path
            .file_stem()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        insta::assert_snapshot!(name, told);
    }
}

const PORT: &str = "[[port]]\nname = 'p0'\ndevice = 'net_null0'\n";

#[test]
fn a_file_with_a_port_alone_has_the_defaults() {
    let config = parse(PORT).expect("it is complete");
    assert_eq!(config.workers.cores, [1]);
    assert_eq!(config.workers.control_core, 0);
    assert_eq!(config.daemon.socket.to_str(), Some("/run/shunt/shunt.sock"));
    assert_eq!(config.ports[0].mirror, Mirror::Tap("shunt0".into()));
    assert_eq!(config.timeouts, shunt_service::Timeouts::default());
    assert_eq!(config.limits.servers, 1024);
}

#[test]
fn every_setting_arrives() {
    let config = parse(include_str!("config/good.toml")).expect("it is good");
    insta::assert_debug_snapshot!(config);
}

#[test]
fn compat_sets_the_kernels_defaults_and_a_service_wins() {
    let services = "[[service]]\nprotocol='tcp'\nvip='10.0.0.1:80'\npersistence='5m'\n\
                    [[service]]\nprotocol='udp'\nvip='10.0.0.1:53'\n\
                    [[service]]\nprotocol='tcp'\nvip='10.0.0.1:81'\npersistence='5m'\n\
                    no_server='drop'\non_removed='finish'\non_down='reset'\ntemplate_weight0='ignore'\n";
    let read = |compat: &str| {
        let config = parse(&format!("{compat}{PORT}{services}")).expect("it is good");
        let settings = config.services.iter().map(|s| {
            let weight0 = s.persistence.map(|p| p.weight0);
            (s.no_server, s.on_removed, s.on_down, weight0, s.unknown)
        });
        settings.collect::<Vec<_>>()
    };
    use shunt_service::{NoServer, OnRemoved as Gone, TemplateWeight0 as W0, Unknown};
    let own = (
        NoServer::Drop,
        Gone::Finish,
        Gone::Reset,
        Some(W0::Ignore),
        Unknown::Reset,
    );
    let kernels = |w0| (NoServer::Icmp, Gone::Hold, Gone::Hold, w0, Unknown::Reset);
    assert_eq!(
        read("compat = 'ipvs'\n"),
        [kernels(Some(W0::Follow)), kernels(None), own]
    );
    let shunts = read("");
    assert_eq!(read("compat = 'shunt'\n"), shunts);
    assert_eq!(shunts[0].0, NoServer::Reset);
    assert_eq!(shunts[1].1, Gone::Reschedule);
    assert_eq!(shunts[2], own);
    let refused = parse(&format!("compat = 'ipvsadm'\n{PORT}")).expect_err("no such word");
    assert!(refused.contains("known are: shunt, ipvs"), "{refused}");
}

#[test]
fn interfaces_are_numbered_port_by_port_untagged_first() {
    let text = format!("{PORT}vlans = [7, 5]\n[[port]]\nname='b'\ndevice='net_null1'\n");
    let config = parse(&text).expect("it is good");
    let list: Vec<_> = config
        .interfaces()
        .into_iter()
        .map(|i| (i.id, i.port, i.vlan, i.mirror))
        .collect();
    let tap = |name: &str| Mirror::Tap(name.to_owned());
    assert_eq!(
        list,
        [
            (InterfaceId(0), PortId(0), None, tap("shunt0")),
            (InterfaceId(1), PortId(0), Some(7), tap("shunt0.7")),
            (InterfaceId(2), PortId(0), Some(5), tap("shunt0.5")),
            (InterfaceId(3), PortId(1), None, tap("shunt1")),
        ]
    );
}

#[test]
fn af_packet_has_its_own_interface_for_a_mirror() {
    let port = |device: &str, mirror: &str| {
        let text = format!("[[port]]\nname='p'\ndevice='{device}'\n{mirror}");
        parse(&text).map(|c| c.ports[0].mirror.clone())
    };
    let own = Ok(Mirror::Device("eth1".into()));
    assert_eq!(port("net_af_packet0,iface=eth1", ""), own);
    let tap = Ok(Mirror::Tap("shunt0".into()));
    assert_eq!(port("net_af_xdp0,iface=eth1", ""), tap);
    assert!(port("net_af_xdp0,iface=eth1", "mirror='eth1'").is_err());
    assert_eq!(
        port("net_af_packet0,iface=eth1", "mirror='none'"),
        Ok(Mirror::None)
    );
    assert!(port("net_af_packet0,iface=eth1", "mirror='shunt0'").is_err());
    assert!(port("net_tap0,iface=dtap0", "mirror='dtap0'").is_err());
}

#[test]
fn udp_sessions_move_on_and_tcp_ones_finish_or_are_reset() {
    let text = format!(
        "{PORT}[[service]]\nprotocol='tcp'\nvip='10.0.0.1:80'\n[[service]]\nprotocol='udp'\n\
         vip='10.0.0.1:80'\n"
    );
    let config = parse(&text).expect("it is good");
    let [tcp, udp] = &config.services[..] else {
        panic!("two services")
    };
    assert_eq!(
        (tcp.on_removed, tcp.on_down),
        (OnRemoved::Finish, OnRemoved::Reset)
    );
    assert_eq!(
        (udp.on_removed, udp.on_down),
        (OnRemoved::Reschedule, OnRemoved::Reschedule)
    );
}

#[test]
fn timeouts_of_a_service_stand_over_the_global_ones() {
    let text = format!(
        "{PORT}[timeouts]\ntcp_established='1h'\nudp='10s'\n[[service]]\nprotocol='tcp'\n\
         vip='10.0.0.1:80'\n[service.timeouts]\ntcp_established='1h30m'\n"
    );
    let timeouts = parse(&text).expect("it is good").services[0].timeouts;
    assert_eq!(timeouts.of(TcpState::Established), 5_400_000);
    assert_eq!(timeouts.of(TcpState::FinWait), 120_000);
    assert_eq!(timeouts.udp, 10_000);
}

#[test]
fn a_server_without_a_port_has_the_services() {
    let text = format!(
        "{PORT}[[service]]\nprotocol='tcp'\nvip='[2001:db8::1]:443'\nmode='dr'\n\
         [[service.server]]\naddress='2001:db8::5'\n"
    );
    let server = parse(&text).expect("it is good").services[0].servers[0].clone();
    assert_eq!(server.address.to_string(), "[2001:db8::5]:443");
    assert_eq!(server.mode, Mode::Dr);
}

#[test]
fn more_servers_than_the_schedulers_table_has_places_are_refused() {
    let service = |scheduler: &str, servers: u32| {
        let server = |n| {
            format!(
                "[[service.server]]\naddress='192.168.{}.{}'\n",
                n / 200,
                n % 200 + 1
            )
        };
        let servers: String = (0..servers).map(server).collect();
        format!("{PORT}[[service]]\nprotocol='tcp'\nvip='10.0.0.100:80'\n{scheduler}\n{servers}")
    };
    for (scheduler, most, help) in [
        ("scheduler='sh'", 256, "scheduler = \"mh\""),
        ("scheduler='dh'", 256, "scheduler = \"mh\""),
        (
            "scheduler='mh'\nscheduler_flags=['mh-size=251']",
            251,
            "mh-size=131071",
        ),
    ] {
        assert!(parse(&service(scheduler, most)).is_ok(), "{scheduler}");
        let told = parse(&service(scheduler, most + 2)).expect_err("two too many");
        assert!(told.contains(&format!("{most} servers at most")), "{told}");
        // The line of the first that is too many.
        assert!(
            told.contains(&format!("address='192.168.1.{}'", most - 199)),
            "{told}"
        );
        assert!(told.contains(help), "{told}");
    }
}

#[test]
fn a_file_for_another_machine_is_not_held_to_this_ones_cores() {
    let text = format!("[workers]\ncores = [70]\n{PORT}");
    assert!(parse(&text).is_err());
    assert!(config::parse("f", &text, &Machine::default()).is_ok());
}

#[test]
fn workers_share_a_core_where_the_file_says_so() {
    let text = format!("[workers]\ncores = [1, 0, 1]\nshare_cores = true\n{PORT}");
    assert_eq!(parse(&text).expect("it is good").workers.cores, [1, 0, 1]);
    assert!(parse(&text.replace("true", "false")).is_err());
}

#[test]
fn what_is_written_reads_back_the_same() {
    let config = parse(include_str!("config/good.toml")).expect("it is good");
    for service in &config.services {
        let written = service_to_json(service);
        assert_eq!(edit::service(&written, &config).as_ref(), Ok(&**service));
        for server in &service.servers {
            let (services, _, new) =
                edit::put_server(service, &server_to_json(server), &config).expect("it is there");
            assert!(!new);
            assert_eq!(services, config.services);
        }
    }
}

#[test]
fn a_body_is_told_all_its_mistakes_with_pointers() {
    let config = parse(PORT).expect("it is good");
    let body = serde_json::json!({
        "protocol": "tpc", "vip": "10.0.0.1", "servers": [{ "adress": "x", "weight": -1 }],
    });
    let told: Vec<_> = edit::service(&body, &config)
        .expect_err("four mistakes")
        .into_iter()
        .map(|m| (m.place, m.what, m.help))
        .collect();
    insta::assert_debug_snapshot!(told);
}

#[test]
fn a_file_full_of_mistakes_is_told_in_part_and_in_time() {
    let text = format!("{PORT}{}", "vlans = [0]\n".repeat(200_000));
    let invalid = config::parse("f", &text, &machine()).expect_err("every line is wrong");
    assert_eq!(invalid.mistakes.len(), 100);
    assert!(invalid.count >= 199_999);
    let told = parse(&text).expect_err("as before");
    assert!(told.contains("(the first 100 are told)"));
    let last = invalid.located().last().and_then(|(at, _)| at);
    assert!(
        last.is_some_and(|(line, column)| line > 100 && column == 1),
        "{last:?}"
    );
}

#[test]
fn no_depth_exhausts_the_stack() {
    for open in ["[", "{a=", "[{a="] {
        assert!(parse(&format!("a = {}", open.repeat(100_000))).is_err());
    }
    assert!(parse(&format!("[{}a]", "a.".repeat(100_000))).is_err());
}

#[test]
fn what_cannot_be_read_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shunt.toml");
    let told = |file: &std::path::Path| {
        let error = config::load(file, &machine()).expect_err("it is no configuration");
        error
            .to_string()
            .replace(&folder.path().display().to_string(), "F")
    };
    assert_eq!(
        told(&file),
        "cannot read F/shunt.toml: No such file or directory (os error 2)"
    );
    std::fs::write(&file, b"[daemon]\n\xff").expect("it is ours");
    assert_eq!(
        told(&file),
        "F/shunt.toml is not UTF-8 text, from line 2 on"
    );
    let long = std::fs::File::create(&file).and_then(|f| f.set_len((32 << 20) + 1));
    long.expect("a hole takes no room");
    assert_eq!(
        told(&file),
        "F/shunt.toml is longer than 32 MiB: is it a configuration?"
    );
}

/// Bits of configuration, so that random text gets past the first line.
fn fragment() -> impl Strategy<Value = String> {
    let words = [
        "[daemon]",
        "[workers]",
        "[[port]]",
        "[[service]]",
        "[[service.server]]",
        "[[route]]",
        "[[neighbour]]",
        "[timeouts]",
        "[service.timeouts]",
        "[service.check]",
        "[service.server.check]",
        "[health]",
        "type",
        "'https'",
        "'dns'",
        "'exec'",
        "interval",
        "sni",
        "host",
        "verify",
        "path",
        "status",
        "body_regex",
        "query",
        "command",
        "payload_hex",
        "quorum",
        "sorry_server",
        "'200-299'",
        "'(a*)*$'",
        "cores",
        "name",
        "device",
        "vlans",
        "mirror",
        "vip",
        "protocol",
        "address",
        "weight",
        "prefix",
        "via",
        "mac",
        "mtu",
        "memory",
        "tcp_established",
        "scheduler",
        "scheduler_flags",
        "local_addresses",
        "=",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        "\n",
        "\n",
        "\"",
        "'",
        "0",
        "-1",
        "99999999999999999999",
        "0x7f",
        "1.5",
        "true",
        "1979-05-27",
        "'tcp'",
        "'10.0.0.1:80'",
        "'[::1]:80'",
        "'fe80::1%3'",
        "'1h'",
        "'99999999999999d'",
        "'9m9'",
        "'+5:00:00:00:00:00'",
        "'sh-port'",
        "'256M'",
        "'/24'",
        "'é'",
    ];
    let word = prop_oneof![
        8 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned),
        1 => ".{0,8}",
    ];
    proptest::collection::vec(word, 0..60).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(text in prop_oneof![".*", fragment()]) {
        // The outcome may be either; the message must be one that can be shown.
        if let Err(told) = parse(&text) {
            prop_assert!(!told.is_empty());
        }
    }

    #[test]
    fn no_change_of_a_good_file_makes_the_reader_panic(
        at in 0usize..2000,
        cut in 0usize..30,
        put in prop_oneof![".{0,5}", fragment()],
    ) {
        let good = include_str!("config/good.toml");
        let from = good.floor_char_boundary(at.min(good.len()));
        let to = good.floor_char_boundary((from + cut).min(good.len()));
        let text = format!("{}{put}{}", &good[..from], &good[to..]);
        if let Err(told) = parse(&text) {
            prop_assert!(!told.is_empty());
        }
    }

    #[test]
    fn no_body_makes_the_reader_panic(body in body()) {
        let config = parse(include_str!("config/good.toml")).expect("it is good");
        let _ = edit::service(&body, &config);
        let _ = edit::put_service(&body, &config);
        for service in &config.services {
            let _ = edit::patch_service(service, &body, &config);
            let _ = edit::put_server(service, &body, &config);
            for server in &service.servers {
                let _ = edit::patch_server(service, server, &body, &config);
            }
        }
    }
}

/// JSON with the API's keys and values here and there.
fn body() -> impl Strategy<Value = serde_json::Value> {
    let texts = [
        "tcp",
        "udp",
        "10.0.0.100:80",
        "[2001:db8::100]:0",
        "172.16.1.5",
        "sh",
        "sh-port",
        "1h",
        "https",
        "dns",
        "exec",
        "/bin/true",
        "200-299",
    ];
    let keys = [
        "protocol",
        "vip",
        "scheduler",
        "scheduler_flags",
        "mode",
        "local_addresses",
        "timeouts",
        "servers",
        "address",
        "weight",
        "upper_threshold",
        "check",
        "type",
        "port",
        "host",
        "status",
        "command",
        "query",
        "payload_hex",
        "sorry_server",
        "udp",
        "/~",
        "",
    ];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        proptest::sample::select(texts.to_vec()).prop_map(Into::into),
        ".{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let key = proptest::sample::select(keys.to_vec()).prop_map(str::to_owned);
        prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            3 => proptest::collection::vec((key, inner), 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}
