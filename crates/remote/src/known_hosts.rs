//! The host keys that are pinned for a cluster: a file as ssh reads it, of which no other is believed.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cluster::Destination;
use tokio::process::Command;
use tokio::time::timeout;

use crate::child::Group;
use crate::failure::{Kind, Problem, Said, Step, explain};
use crate::script::first_of;
use crate::ssh::{LAST_WORDS, Ssh, alias, spawn};

/// For so long a machine may take to show its key.
const SHOW: Duration = Duration::from_secs(20);
/// Bytes of a key file that are read at most: a key has less than one KiB.
const MAX_FILE: u64 = 1 << 20;

/// A host key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKey {
    /// As it stands in the file.
    line: String,
    /// `SHA256:…`, as a person compares it.
    pub fingerprint: String,
    /// `ED25519` and so on.
    pub kind: String,
}

/// The key that the machine shows now. Nothing is logged in to.
///
/// # Errors
/// When it cannot be reached.
pub async fn shown(ssh: &Ssh, way: &Destination) -> Result<HostKey, Problem> {
    let place = way.to_string();
    let other = |why: String| Problem::new(&place, Step::Login, Kind::Other, why);
    let scratch = Scratch::new().map_err(|error| other(error.to_string()))?;
    let file = scratch.0.join("known_hosts");
    let mut command = ssh.command(way, &file);
    // ssh writes the key down before it asks to be let in, which is not tried.
    command.args(["-o", "StrictHostKeyChecking=accept-new", "-o", "PreferredAuthentications=none"]);
    command.args(["--", &way.host, "true"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = spawn(&place, &mut command)?;
    let stderr = child.stderr.take().ok_or_else(|| other("ssh has no pipes".to_owned()))?;
    let child = Group::new(child);
    let errors = timeout(SHOW, first_of(stderr)).await;
    let errors = errors.map_err(|_| Problem::new(&place, Step::Login, Kind::Timeout, String::new()))?;
    let status = child.end(LAST_WORDS).await;
    let line = fs::read_to_string(&file).unwrap_or_default();
    let Some(line) = line.lines().next() else {
        return Err(explain(&place, status, &Said { errors, noise: String::new() }));
    };
    read(line).await.map_err(|error| other(error.to_string()))
}

/// The key that is pinned, if one is.
///
/// # Errors
/// When the file is there and cannot be read.
pub async fn pinned(known_hosts: &Path, way: &Destination) -> io::Result<Option<HostKey>> {
    let text = text(known_hosts)?;
    let name = alias(way);
    match text.lines().find(|line| is_of(line, &name)) {
        Some(line) => read(line).await.map(Some),
        None => Ok(None),
    }
}

/// Pins `key`, in place of any other of that machine.
///
/// # Errors
/// When the file cannot be written; then the old one is whole.
pub fn pin(known_hosts: &Path, way: &Destination, key: &HostKey) -> io::Result<()> {
    let text = text(known_hosts)?;
    let name = alias(way);
    let mut lines: Vec<&str> = text.lines().filter(|line| !is_of(line, &name)).collect();
    lines.push(&key.line);
    if let Some(directory) = known_hosts.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let beside = known_hosts.with_extension("tmp");
    let _ = fs::remove_file(&beside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all((lines.join("\n") + "\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, known_hosts)
}

fn is_of(line: &str, name: &str) -> bool {
    line.split(' ').next() == Some(name)
}

fn text(known_hosts: &Path) -> io::Result<String> {
    match fs::metadata(known_hosts) {
        Ok(found) if found.len() > MAX_FILE => Err(io::Error::other("larger than any list of host keys")),
        Ok(_) => fs::read_to_string(known_hosts),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// A line with its fingerprint, which ssh's own tool tells.
async fn read(line: &str) -> io::Result<HostKey> {
    let scratch = Scratch::new()?;
    let file = scratch.0.join("key");
    fs::write(&file, format!("{line}\n"))?;
    let mut command = Command::new("ssh-keygen");
    command.args(["-l", "-f"]).arg(&file).stdin(Stdio::null()).kill_on_drop(true);
    let told = timeout(SHOW, command.output()).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    // `256 SHA256:… name (ED25519)`.
    let mut words = told.split_whitespace();
    let fingerprint = words.nth(1).filter(|word| word.starts_with("SHA256:"));
    let fingerprint =
        fingerprint.ok_or_else(|| io::Error::other("ssh-keygen does not take it for a host key"))?;
    let kind = words.next_back().unwrap_or_default().trim_matches(['(', ')']);
    Ok(HostKey { line: line.to_owned(), fingerprint: fingerprint.to_owned(), kind: kind.to_owned() })
}

/// A directory of our own that goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        for number in 0..100_u32 {
            let name = format!("srsctl-key-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_key_of_one_machine_is_replaced_and_those_of_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("live/known_hosts");
        let key = |name: &str, key: &str| HostKey {
            line: format!("{name} ssh-ed25519 {key}"),
            fingerprint: String::new(),
            kind: String::new(),
        };
        let way = |host: &str, port| Destination { user: Some("me".into()), host: host.into(), port };
        assert_eq!(pinned(&file, &way("a", None)).await.unwrap(), None);
        pin(&file, &way("a", None), &key("a", "1")).unwrap();
        pin(&file, &way("a", Some(2222)), &key("a:2222", "2")).unwrap();
        pin(&file, &way("a", None), &key("a", "3")).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "a:2222 ssh-ed25519 2\na ssh-ed25519 3\n");
    }
}
