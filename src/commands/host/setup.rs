//! `srsctl host setup`: makes this machine one that runs clusters, as root. What is there and right stays as it is, so it may be run again.
//!
//! | what | where |
//! | --- | --- |
//! | the program, each version under its SHA-256 | /usr/local/lib/srsctl, and the link /usr/local/bin/srsctl |
//! | the user of all clusters here | `srsctl`, home /etc/srsctl, which is root's: nobody who may log in as that user can change who may |
//! | who may log in, for what alone | /etc/srsctl/.ssh/authorized_keys |
//! | units, and what else belongs to them | /etc/systemd/system, /etc/tmpfiles.d, /etc/needrestart |
//! | state | /var/lib/srsctl, /run/srsctl |

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::unistd::{Gid, Uid, User};

use super::program;
use crate::failure::Failure;
use crate::subject;
use crate::terminal::complain;
use crate::units::{BESIDE, IN_FORCE, PACKAGED, UNITS, VERSIONS};

/// The user of all clusters of a machine.
const USER: &str = "srsctl";
/// Its home.
const HOME: &str = "/etc/srsctl";
/// Where programs of the system are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of a public key with its comment, at most.
const KEY_MAX: usize = 16 << 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Clusters whose services are started now and at each boot
    #[arg(value_name = "CLUSTER", value_parser = subject::cluster_name)]
    clusters: Vec<String>,
    /// Program and units are those of a package
    #[arg(long)]
    packaged: bool,
    /// A public key whose owner may do everything with the clusters of this machine
    #[arg(long = "operator-key", value_name = "KEY", value_parser = key)]
    operators: Vec<String>,
    /// A public key whose owner may look at them
    #[arg(long = "viewer-key", value_name = "KEY", value_parser = key)]
    viewers: Vec<String>,
}

/// A line of a public key file: kind, key, and a comment.
pub(super) fn key(text: &str) -> Result<String, String> {
    let mut words = text.split_whitespace();
    let kinds = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"];
    let kind = words.next().filter(|kind| kinds.iter().any(|known| kind.starts_with(known)));
    let is_base64 =
        |key: &&str| key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
    let is_sound = text.len() <= KEY_MAX && !text.chars().any(char::is_control);
    match (kind, words.next().filter(is_base64)) {
        (Some(_), Some(_)) if is_sound => Ok(text.trim().to_owned()),
        _ => Err("expected a line of a public key file, such as ~/.ssh/id_ed25519.pub".to_owned()),
    }
}

/// Does it, and says what it has done.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::failed("root sets a machine up: sudo srsctl host setup"));
    }
    let mut is_new = false;
    let program = if args.packaged {
        Path::new(PACKAGED)
    } else {
        if Path::new(PACKAGED).exists() {
            return Err(Failure::failed(format!(
                "srsctl is here as a package ({PACKAGED}): install the package of this version, or remove it first"
            )));
        }
        let own = Path::new("/proc/self/exe");
        let installed =
            program::install(own, Path::new(VERSIONS), Path::new(IN_FORCE)).map_err(Failure::failed)?;
        is_new = installed.is_new;
        if is_new {
            complain(&format!("{IN_FORCE} leads to {}", installed.path.display()));
        }
        Path::new(IN_FORCE)
    };
    let user = make_user()?;
    make_directories(&user)?;
    if !args.packaged {
        for file in UNITS.iter().chain(&BESIDE) {
            let dir = Path::new(file.path).parent().unwrap_or_else(|| Path::new("/"));
            // needrestart may not be here.
            if file.is_needed || dir.exists() {
                is_new |= put(Path::new(file.path), &file.text(program), 0o644)?;
            }
        }
    }
    let lines = [("operator", &args.operators), ("viewer", &args.viewers)];
    let lines: Vec<_> =
        lines.iter().flat_map(|(role, keys)| keys.iter().map(|key| (*role, key.as_str()))).collect();
    if !lines.is_empty() {
        authorize(&lines, program)?;
    }
    if !Path::new("/run/systemd/system").exists() {
        complain("no systemd runs here: nothing is started now, nor when the machine boots");
        return Ok(ExitCode::SUCCESS);
    }
    if is_new {
        systemctl(&["daemon-reload"])?;
        // Ports and players do not notice.
        systemctl(&["try-restart", "srsctl@*.service"])?;
    }
    for cluster in &args.clusters {
        systemctl(&["enable", "--now", &format!("srsctl@{cluster}.service")])?;
        complain(&format!("srsctl@{cluster}.service runs, and starts with the machine"));
    }
    Ok(ExitCode::SUCCESS)
}

fn make_user() -> Result<User, Failure> {
    let find =
        || User::from_name(USER).map_err(|e| Failure::failed(format!("users cannot be looked up: {e}")));
    if let Some(user) = find()? {
        return Ok(user);
    }
    // Its shell runs what authorized_keys says, and nothing else. `*` is no password, and no locked account, to which sshd lets nobody.
    run_program(
        "useradd",
        &["--system", "--user-group", "--no-create-home", "--home-dir", HOME, "--shell", "/bin/sh", USER],
    )?;
    run_program("usermod", &["--password", "*", USER])?;
    complain(&format!("user {USER} is made"));
    find()?.ok_or_else(|| Failure::failed(format!("user {USER} is not there, though it was made")))
}

fn make_directories(user: &User) -> Result<(), Failure> {
    let dirs = [
        (HOME, 0o755, (Uid::from_raw(0), Gid::from_raw(0))),
        ("/etc/srsctl/.ssh", 0o755, (Uid::from_raw(0), Gid::from_raw(0))),
        ("/var/lib/srsctl", 0o700, (user.uid, user.gid)),
        ("/run/srsctl", 0o700, (user.uid, user.gid)),
    ];
    for (path, mode, (owner, group)) in dirs {
        let made = match fs::DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        };
        let made = made.and_then(|()| Ok(nix::unistd::chown(path, Some(owner), Some(group))?));
        made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
            .map_err(|error| Failure::failed(format!("cannot make {path}: {error}")))?;
    }
    Ok(())
}

/// Lets the owners of keys do what their role may, and nothing else. A key that is there already has the role of now.
fn authorize(lines: &[(&str, &str)], program: &Path) -> Result<(), Failure> {
    let path = Path::new(HOME).join(".ssh/authorized_keys");
    let before = fs::read_to_string(&path).unwrap_or_default();
    let body = |key: &str| key.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let is_new = |line: &&str| !lines.iter().any(|(_, key)| line.contains(&body(key)));
    let kept = before.lines().filter(is_new).map(str::to_owned);
    let added = lines.iter().map(|(role, key)| {
        format!("restrict,command=\"{} agent dial-stdio --role {role}\" {key}", program.display())
    });
    let text: String = kept.chain(added).map(|line| line + "\n").collect();
    if put(&path, &text, 0o644)? {
        complain(&format!("{}: {} may log in as {USER}", path.display(), lines.len()));
    }
    Ok(())
}

/// Writes a file where it does not say that already.
fn put(path: &Path, text: &str, mode: u32) -> Result<bool, Failure> {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(false);
    }
    let new = path.with_extension("srsctl-new");
    let fail = |error: io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
    let written = fs::write(&new, text)
        .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.map_err(fail)?;
    Ok(true)
}

fn systemctl(args: &[&str]) -> Result<(), Failure> {
    run_program("systemctl", args)
}

fn run_program(name: &str, args: &[&str]) -> Result<(), Failure> {
    let output = Command::new(name).args(args).env("PATH", PATH).output();
    let output = output.map_err(|error| Failure::failed(format!("{name}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::failed(format!("{name} {}: {}", args.join(" "), said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_line_of_a_public_key_file_and_no_option_of_sshd() {
        let sound = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA+/x= me@laptop";
        assert_eq!(key(&format!(" {sound}\t")).unwrap_err().split(' ').next(), Some("expected"));
        assert_eq!(key(&format!(" {sound} ")).unwrap(), sound);
        for wrong in [
            "",
            "ssh-ed25519",
            "AAAAC3NzaC1lZDI1NTE5",
            "command=\"sh\" ssh-ed25519 AAAA",
            "ssh-ed25519 AAAA\nssh-ed25519 BBBB",
            "ssh-ed25519 AA;AA",
        ] {
            assert!(key(wrong).is_err(), "{wrong:?}");
        }
    }
}
