//! Every broken cluster file of tests/broken gets exactly the message that stands beside it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use cluster::Cluster;
use cluster::file::{ClusterFile, FileError};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/broken")
}

/// What /etc/hosts says on any machine, and nothing else.
fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    if name.eq_ignore_ascii_case("localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
    }
    Err(io::Error::other("not found"))
}

fn load(path: &Path) -> Result<Cluster, FileError> {
    ClusterFile::read(path)?.cluster(&resolve)
}

/// The system's own words are not compared.
fn without_causes(message: &str) -> String {
    let line = |l: &str| match l.split_once("= cause: ") {
        Some((before, _)) if before.trim().is_empty() => format!("{before}= cause: [..]\n"),
        _ => format!("{l}\n"),
    };
    message.lines().map(line).collect()
}

fn files() -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| PathBuf::from(entry.unwrap().file_name()))
        .filter(|name| name.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_broken_file_gets_its_message() {
    // This binary's tests agree on it: the path in a message is the path as given.
    std::env::set_current_dir(directory()).unwrap();
    let bless = std::env::var_os("SRSCTL_BLESS").is_some_and(|v| v == "1");
    let mut wrong = Vec::new();
    let files = files();
    assert!(files.len() >= 30, "only {} broken files", files.len());
    for file in files {
        let message = match load(&file) {
            Ok(_) => format!("{} is not broken", file.display()),
            Err(e) => without_causes(&e.to_string()),
        };
        let golden = file.with_extension("txt");
        if bless {
            std::fs::write(&golden, &message).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if message != expected {
            wrong.push(format!("--- {} expected\n{expected}--- got\n{message}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_message_names_file_line_and_column() {
    std::env::set_current_dir(directory()).unwrap();
    for file in files() {
        let message = load(&file).unwrap_err().to_string();
        let rest =
            message.strip_prefix(&format!("{}:", file.display())).unwrap_or_else(|| panic!("{message}"));
        let numbers: Vec<_> = rest.splitn(3, ':').take(2).map(str::parse::<u32>).collect();
        assert!(matches!(numbers[..], [Ok(1..), Ok(1..)]), "{message}");
        let empty = std::fs::read(&file).unwrap().iter().all(u8::is_ascii_whitespace);
        assert!(empty || message.contains('^'), "{message}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = load(Path::new("no-such-file.yaml")).unwrap_err();
    assert!(matches!(error, FileError::Unreadable(_)));
    assert!(error.to_string().starts_with("no-such-file.yaml: no such file\n"), "{error}");
}
