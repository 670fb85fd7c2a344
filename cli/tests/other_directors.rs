//! A director that is not there, has gone, is something else or of another version: one clear message, and an
//! exit code that is not 0, whatever was asked.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

/// What is asked; FILE is one that can be read.
const ASKED: [&str; 9] = [
    "status",
    "servers",
    "plan FILE",
    "apply FILE --confirm-within 60s",
    "confirm",
    "rollback",
    "history",
    "save",
    "reload",
];

fn asks(socket: &Path, arguments: &str, file: &Path) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_shunt"))
        .arg("--socket")
        .arg(socket)
        .args(
            arguments
                .replace("FILE", &file.display().to_string())
                .split_whitespace(),
        )
        .output()
        .expect("it can be run");
    assert!(output.stdout.is_empty(), "{arguments}");
    let told = String::from_utf8(output.stderr).expect("text");
    (output.status.code().expect("no signal"), told)
}

/// Answers every request with this.
fn answers(socket: &Path, answer: &'static str) {
    let listener = UnixListener::bind(socket).expect("the folder is ours");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut some = [0; 4096];
            let _ = stream.read(&mut some);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}

#[test]
fn whatever_is_there_is_told_in_one_message() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let file = at("shunt.toml");
    std::fs::write(&file, "# none").expect("ours");
    drop(UnixListener::bind(at("dead")).expect("ours"));
    answers(
        &at("other"),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
    );
    answers(&at("nothing"), "hello\r\n");
    answers(
        &at("older"),
        "HTTP/1.1 404 Not Found\r\nshunt-version: 0.0.9\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
    );
    answers(
        &at("newer"),
        "HTTP/1.1 200 OK\r\nshunt-version: 9.0.0\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]",
    );
    for (socket, code, says) in [
        ("none", 4, "there is no such socket"),
        ("dead", 4, "the socket is dead"),
        ("shunt.toml", 4, "the socket is dead"),
        ("other", 4, "what answers there is no director"),
        ("nothing", 4, "the connection broke"),
        ("older", 1, "is version 0.0.9, and this shunt is"),
        ("newer", 1, "is version 9.0.0, and this shunt is"),
    ] {
        for asked in ASKED {
            if socket == "newer" && matches!(asked, "servers") {
                continue; // An empty list is one of any version.
            }
            let (exit, told) = asks(&at(socket), asked, &file);
            assert_eq!(exit, code, "{socket}, {asked}: {told}");
            assert!(told.contains(says), "{socket}, {asked}: {told}");
            assert!(told.lines().count() <= 2, "{socket}, {asked}: {told}");
        }
    }
}
