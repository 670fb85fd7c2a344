//! Whatever a file holds, importing it ends, panics nowhere, and makes nothing that the configuration's
//! reader refuses.

use proptest::prelude::*;
use shunt_control::config::{self, Machine};

use super::*;

fn judged(name: &str, bytes: &[u8], import: Import) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(name);
    std::fs::write(&file, bytes).expect("it can be written");
    let marks = [(1, "tcp 192.0.2.9:80".to_owned())];
    let made = made(&file, &marks, "main".to_owned(), ON_FAILURE, import).expect("it is read");
    let text = format!(
        "{}\n[[port]]\nname = \"p0\"\ndevice = \"net_null0\"\n",
        made.configuration
    );
    if let Err(invalid) = config::parse("made", &text, &Machine::default()) {
        panic!("{invalid}: {:#?}\n{text}", invalid.mistakes);
    }
}

/// Words that such files have, so that garbage is not refused at its first letter.
fn word() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "virtual_server",
        "real_server",
        "virtual_server_group",
        "group",
        "fwmark",
        "lb_algo",
        "lb_kind",
        "sh",
        "mh",
        "dh",
        "wrr",
        "NAT",
        "DR",
        "TUN",
        "type",
        "gue",
        "protocol",
        "UDP",
        "TCP",
        "ops",
        "persistence_timeout",
        "persistence_granularity",
        "255.255.0.0",
        "quorum",
        "hysteresis",
        "sorry_server",
        "sh-port",
        "mh-fallback",
        "flag-1",
        "HTTP_GET",
        "SSL_GET",
        "TCP_CHECK",
        "DNS_CHECK",
        "UDP_CHECK",
        "MISC_CHECK",
        "PING_CHECK",
        "url",
        "path",
        "/x",
        "status_code",
        "200-299",
        "regex",
        "regex_options",
        "caseless",
        "misc_path",
        "misc_timeout",
        "connect_port",
        "connect_ip",
        "retry",
        "delay_loop",
        "weight",
        "uthreshold",
        "lthreshold",
        "alpha",
        "inhibit_on_failure",
        "virtualhost",
        "www.example.com",
        "payload",
        "require_reply",
        "name",
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.3-9",
        "10.0.0.0/24",
        "2001:db8::1",
        "80",
        "0",
        "1",
        "2",
        "70000",
        "-1",
        "0.5",
        "1e300",
        "{",
        "}",
        "\n",
        "\n",
        "{\n",
        "}\n",
        "$A=",
        "$A",
        "${A}",
        "\\\n",
        "@main",
        "@^main",
        "include",
        "~SEQ(",
        "\"",
        "'",
        "#",
        "global_defs",
        "lvs_timeouts",
        "tcp",
        "udp",
    ]);
    prop_oneof![
        6 => known.prop_map(str::to_owned),
        1 => "[ -~]{0,6}",
        1 => any::<String>(),
    ]
}

fn option() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "-A",
        "-E",
        "-D",
        "-a",
        "-e",
        "-d",
        "-C",
        "-S",
        "-t",
        "-u",
        "-f",
        "-r",
        "-g",
        "-i",
        "-m",
        "-w",
        "-x",
        "-y",
        "-s",
        "-p",
        "-M",
        "-b",
        "-o",
        "10.0.0.1:80",
        "10.0.0.2:80",
        "[2001:db8::1]:80",
        "10.0.0.0/24:0",
        "1",
        "2",
        "70000",
        "rr",
        "mh",
        "mh-port",
        "255.255.0.0",
        "--match",
        "tcp 10.0.0.3:80",
        "\n",
        "\n",
        "--fullnat",
        "--local-address",
        "10.0.0.4",
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_of_any_kind(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        judged("keepalived.conf", &bytes, keepalived::import);
        judged("rules", &bytes, ipvsadm::import);
    }

    #[test]
    fn words_in_any_order(words in proptest::collection::vec(word(), 0..120)) {
        judged("keepalived.conf", words.join(" ").as_bytes(), keepalived::import);
    }

    #[test]
    fn settings_in_their_places(
        of_virtual in proptest::collection::vec(word(), 0..40),
        of_server in proptest::collection::vec(word(), 0..40),
        of_check in proptest::collection::vec(word(), 0..40),
    ) {
        let text = format!(
            "virtual_server 10.0.0.9 80 {{\n{}\nreal_server 10.0.0.7 80 {{\n{}\nHTTP_GET {{\n{}\n}}\n}}\n}}\n",
            of_virtual.join(" "), of_server.join(" "), of_check.join(" "),
        );
        judged("keepalived.conf", text.as_bytes(), keepalived::import);
    }

    #[test]
    fn options_in_any_order(words in proptest::collection::vec(option(), 0..80)) {
        judged("rules", words.join(" ").as_bytes(), ipvsadm::import);
    }
}
