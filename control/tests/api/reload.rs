//! A reload of the file.

use serde_json::json;
use shunt_control::api::types;

use crate::lab::{FILE, Lab};

#[test]
fn a_reload_makes_the_director_equal_to_the_file_or_changes_nothing() {
    let lab = Lab::start();
    let file = lab.control.folder.path().join("shunt.toml");
    lab.ask("PUT", "/v1/services/tcp:10.0.0.101:80", Some(&json!({})));
    std::fs::write(
        &file,
        FILE.replace("weight = 3", "weight = 70000\ncolour = 1"),
    )
    .expect("it is ours");
    let (status, problem) = lab.ask("POST", "/v1/reload", None);
    let problem: types::Problem = serde_json::from_value(problem).expect("a problem");
    assert_eq!((status, problem.errors.len()), (422, 2));
    let line = FILE
        .lines()
        .position(|l| l == "weight = 3")
        .expect("it is there")
        + 1;
    assert_eq!(problem.errors[0].line, Some(line));
    assert_eq!(problem.errors[1].column, Some(1));
    assert_eq!(lab.get::<Vec<types::Service>>("/v1/services").len(), 2);

    std::fs::write(&file, FILE.replace("weight = 3", "weight = 4")).expect("it is ours");
    let (status, changes) = lab.ask("POST", "/v1/reload", None);
    assert_eq!(
        (status, &changes["services_removed"]),
        (200, &json!(1)),
        "{changes}"
    );
    let servers: Vec<types::Server> = lab.get("/v1/servers");
    assert_eq!(servers.iter().map(|s| s.weight).collect::<Vec<_>>(), [1, 4]);

    std::fs::write(&file, FILE.replace("servers = 3", "servers = 4")).expect("it is ours");
    let (status, problem) = lab.ask("POST", "/v1/reload", None);
    assert_eq!((status, &problem["code"]), (409, &json!("needs-restart")));
}
