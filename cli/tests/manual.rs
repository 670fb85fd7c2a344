//! Completions are what their shells take, and manual pages render without a warning.

use std::path::Path;
use std::process::{Command, Output};

fn shunt(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_shunt"))
        .args(arguments)
        .output()
        .expect("it can be run");
    assert!(output.status.success(), "{arguments:?}");
    output.stdout
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn bash_takes_its_completion() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shunt");
    std::fs::write(&file, shunt(&["completions", "bash"])).expect("it can be written");
    let parsed = Command::new("bash").arg("-n").arg(&file).output();
    let parsed = parsed.expect("there is a bash");
    assert!(parsed.status.success(), "{}", said(&parsed));
    // It completes: `shunt drain st` becomes `start`, and a server's command has its options.
    let ask = |line: &str| {
        let script = format!(
            ". {}; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _shunt shunt \"${{COMP_WORDS[COMP_CWORD]}}\" x; echo \"${{COMPREPLY[@]}}\"",
            file.display()
        );
        let output = Command::new("bash").args(["-c", &script]).output();
        let output = output.expect("there is a bash");
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(ask("shunt drain st"), "start\n");
    assert_eq!(ask("shunt server add --we"), "--weight\n");
    assert_eq!(ask("shunt import k"), "keepalived\n");
}

#[test]
fn other_shells_have_theirs() {
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = String::from_utf8(shunt(&["completions", shell])).expect("text");
        assert!(script.contains("rs-setup"), "{shell}");
    }
}

/// The text of a page; fails with whatever there is to complain of.
fn rendered(page: &Path) -> String {
    let output = Command::new("man")
        .args(["--warnings", "-E", "UTF-8", "-l"])
        .arg(page)
        .env("MANPAGER", "cat")
        .env("MANWIDTH", "100")
        .output()
        .expect("man renders pages: apt-get install man-db");
    assert!(
        output.status.success(),
        "{}: {}",
        page.display(),
        said(&output)
    );
    assert_eq!(said(&output), "", "{}", page.display());
    let text = String::from_utf8(output.stdout).expect("text");
    // Without the overstriking of bold type.
    let mut plain = String::new();
    for c in text.chars() {
        match c {
            '\x08' => drop(plain.pop()),
            c => plain.push(c),
        }
    }
    plain
}

#[test]
fn manual_pages_render_without_warnings() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man1");
    shunt(&["man", "--dir", pages.to_str().expect("text")]);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&pages).expect("it is there") {
        let path = entry.expect("an entry").path();
        let text = rendered(&path);
        assert!(text.contains("SYNOPSIS"), "{}", path.display());
        names.push(
            path.file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned(),
        );
    }
    for name in [
        "shunt.1",
        "shunt-services.1",
        "shunt-drain-start.1",
        "shunt-import-keepalived.1",
    ] {
        assert!(
            names.iter().any(|n| n == name),
            "{name} is not among {names:?}"
        );
    }
    let text = rendered(&pages.join("shunt.1"));
    assert!(text.contains("no director answers"), "{text}");
    let one = folder.path().join("shunt.1");
    std::fs::write(&one, shunt(&["man"])).expect("it can be written");
    assert_eq!(rendered(&one), text);
}
