//! Every broken cluster file gets an error that names the file, the line and the column, and what was expected.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::cluster::{Done, TestCluster, run};

/// The broken files that are kept as files; beside each a .txt with the message that it must get.
fn broken() -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(broken_dir()).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    files
}

fn broken_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken")
}

#[test]
fn every_broken_cluster_file_is_refused_with_its_message_and_exit_code_2() {
    let cluster = TestCluster::guide();
    let files = broken();
    assert!(files.len() >= 25, "only {} broken files", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let golden =
            fs::read(file.with_extension("txt")).unwrap_or_else(|e| panic!("{name} lacks its .txt: {e}"));
        let golden = String::from_utf8_lossy(&golden);
        // A message begins with file:line:column, the file as it was named.
        let done = run(cluster.srsctl(&["check", &name]).current_dir(broken_dir()));
        if done.code != 2 {
            wrong.push(format!("{name}: exit code {}, not 2\n{}", done.code, done.text()));
        }
        if let Some(missing) = first_missing(&golden, &done.stderr) {
            wrong.push(format!("{name}: {missing:?} is missing in\n{}", done.stderr));
        }
    }
    assert!(wrong.is_empty(), "{} of them are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The first line of `golden` that `text` does not have, in order; `[..]` stands for any words.
fn first_missing<'a>(golden: &'a str, text: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    golden.lines().find(|wanted| {
        !lines.any(|line| {
            let mut rest = line;
            wanted.trim_end().split("[..]").all(|piece| {
                let at = rest.find(piece);
                at.is_some_and(|at| {
                    rest = &rest[at + piece.len()..];
                    true
                })
            })
        })
    })
}

#[test]
fn a_line_that_is_missing_or_out_of_order_is_found() {
    assert_eq!(first_missing("a\nb [..] c", "error: a\nb x c\n"), None);
    assert_eq!(first_missing("a\nb", "b\na\n"), Some("b"));
    assert_eq!(first_missing("b [..] c", "c b\n"), Some("b [..] c"));
}

#[test]
fn a_missing_file_is_named() {
    refused("not-there.yaml", None).expect_words(&["not-there.yaml", "no such file"]);
}

#[test]
fn a_directory_in_place_of_the_file_is_named() {
    let cluster = TestCluster::guide();
    fs::create_dir(cluster.dir.path().join("dir.yaml")).unwrap();
    cluster.run(&["check", "dir.yaml"]).expect_code(2).expect_words(&["dir.yaml", "directory"]);
}

#[test]
fn a_file_of_2_mib_is_refused_before_it_is_parsed() {
    let mut text = String::from("cluster: live\n");
    text.push_str(&"# filler\n".repeat(2 * 1024 * 1024 / 9));
    refused("big.yaml", Some(text.as_bytes())).expect_words(&["big.yaml", "large"]);
}

#[test]
fn a_file_that_is_not_utf8_is_refused() {
    refused("latin1.yaml", Some(b"cluster: caf\xe9\n")).expect_words(&["latin1.yaml", "utf-8"]);
}

#[test]
fn an_empty_file_is_refused() {
    refused("empty.yaml", Some(b"")).expect_words(&["empty.yaml"]);
}

#[test]
fn up_refuses_a_broken_file_too_and_starts_nothing() {
    let cluster = TestCluster::with(|net| net.guide().replace("port: 1935", "port: 70000"));
    cluster.run(&["up", "cluster.yaml"]).expect_code(2).expect_words(&["cluster.yaml", "70000"]);
    cluster.assert_nothing_left();
}

/// `check` of a file with these bytes, or of one that is not there.
#[track_caller]
fn refused(name: &str, bytes: Option<&[u8]>) -> Done {
    let cluster = TestCluster::guide();
    if let Some(bytes) = bytes {
        fs::write(cluster.dir.path().join(name), bytes).unwrap();
    }
    cluster.run(&["check", name]).expect_code(2)
}
