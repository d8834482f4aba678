//! What `srsctl` says where no cluster runs: help, wrong usage, files. The cases are in tests/commands/, each a command and
//! all that it prints; those of NAME.md run in a copy of the directory NAME.in, where there is one.

use std::path::Path;

use crate::support::cluster::SRSCTL;

fn cases() -> trycmd::TestCases {
    let cases = trycmd::TestCases::new();
    cases.env("COLUMNS", "100").register_bin("srsctl", Path::new(SRSCTL));
    cases
}

#[test]
fn help_and_wrong_usage_are_told_as_written_in_tests_commands() {
    cases().case("tests/commands/help.md").case("tests/commands/usage.md");
}

#[test]
fn commands_without_a_cluster_say_what_is_written_in_tests_commands() {
    // Not set above: clap shows what was given in its messages, also by the environment.
    let cases = cases();
    cases.env("SRSCTL_STATE_DIR", "state");
    cases.case("tests/commands/nothing-here.md").case("tests/commands/never-started.md");
}
