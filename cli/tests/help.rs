//! What `shunt` says without a director: help, `check`, and that nobody answers.

#[test]
fn the_command_line_is_as_recorded() {
    trycmd::TestCases::new()
        .env("NO_COLOR", "1")
        .case("tests/cmd/*.trycmd");
}
