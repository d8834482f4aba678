//! `srsctl host install`: has a machine that has nothing but sshd run clusters.
//!
//! There is no srsctl there, so what runs at first is a script for sh, `install.sh` beside this file. It looks (is this program there already, may one be
//! root without a password), takes the program in, and makes sure of its SHA-256. Then the program itself does root's part
//! ([`setup`](super::setup)), by `sudo -n`; where that asks for a password, the one command is printed that a person has to type.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cluster::Destination;
use remote::{Outcome, Ssh};
use tokio::io::AsyncRead;

use super::{program, setup};
use crate::failure::Failure;
use crate::fleet;
use crate::subject::{Global, Subject};
use crate::terminal::complain;

const SCRIPT: &str = include_str!("install.sh");
/// Columns of a line of what was said there.
const LINE: usize = 200;
/// Lines of it that are shown.
const LINES: usize = 6;
/// Public keys of a user, of which the first that is there is taken.
const OWN_KEYS: [&str; 3] = ["id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to, and as which user, who may use sudo there
    #[arg(value_name = "[USER@]HOST[:PORT]")]
    host: String,
    /// A public key file: its owner may do everything with the clusters there [default: ~/.ssh/id_ed25519.pub]
    #[arg(long, value_name = "FILE")]
    operator_key: Vec<PathBuf>,
    /// A public key file: its owner may look at them
    #[arg(long, value_name = "FILE")]
    viewer_key: Vec<PathBuf>,
}

/// Installs it.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode, Failure> {
    let subject = Subject::find(global, None, "host install HOST")?;
    let way = cluster::file::destination_of(&args.host).map_err(Failure::usage)?;
    let keys = keys(&args)?;
    let unreadable = |e: io::Error| Failure::failed(format!("cannot read srsctl itself: {e}"));
    let own = Path::new("/proc/self/exe");
    let name = File::open(own).and_then(|mut file| program::digest(&mut file)).map_err(unreadable)?;
    let ssh = fleet::ssh(global, subject.dirs());
    let unit = format!("srsctl@{}.service", subject.name());
    let at = At { ssh: &ssh, way: &way, values: format!("name={name} unit={}", text::shell_word(&unit)) };

    let seen = at.run("look", "", tokio::io::empty()).await?;
    let has = |word: &str| seen.lines.iter().any(|line| line == word);
    let value = |name: &str| seen.lines.iter().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let (system, own_system) = (value("system "), format!("Linux {}", std::env::consts::ARCH));
    if system != own_system {
        return Err(Failure::failed(format!(
            "{way} is {system}, and this srsctl is for {own_system}: build it for that one"
        )));
    }
    let brings_keys = !(args.operator_key.is_empty() && args.viewer_key.is_empty());
    if has("installed") && has("active") && !brings_keys {
        complain(&format!("{way}: this srsctl is installed, and {unit} runs"));
        return Ok(ExitCode::SUCCESS);
    }
    if !has("copied") {
        complain(&format!("{way}: copying srsctl {}", env!("CARGO_PKG_VERSION")));
        let program = std::fs::read(own).map_err(unreadable)?;
        at.run("copy", "", program.as_slice()).await?;
    }
    let words =
        [value("program "), "host", "setup", subject.name()].map(str::to_owned).into_iter().chain(keys);
    let words = words.map(|word| text::shell_word(&word).into_owned()).collect::<Vec<_>>().join(" ");
    if !has("root") {
        let (why, sudo) = if has("no-sudo") {
            ("there is no sudo there; root does the rest", "")
        } else {
            ("sudo asks for a password there; this does the rest", "sudo ")
        };
        let port = way.port.map(|port| format!("-p {port} ")).unwrap_or_default();
        let to = Destination { port: None, ..way.clone() };
        return Err(Failure::failed(format!(
            "{way}: srsctl is copied; {why}, once:\n  ssh -t {port}{to} {}",
            text::shell_word(&format!("{sudo}{words}"))
        )));
    }
    let done = at.run("setup", &format!(" words={}", text::shell_word(&words)), tokio::io::empty()).await?;
    for line in done.errors.lines().filter(|line| !line.trim().is_empty()) {
        complain(&format!("{way}: {line}"));
    }
    complain(&format!("{way}: installed; in the cluster file: ssh: srsctl@{}", way.host));
    Ok(ExitCode::SUCCESS)
}

/// The machine that the script runs on.
struct At<'a> {
    ssh: &'a Ssh,
    way: &'a Destination,
    values: String,
}

impl At<'_> {
    async fn run(&self, role: &str, more: &str, input: impl AsyncRead + Unpin) -> Result<Outcome, Failure> {
        let script = format!("{} role={role}{more}\n{SCRIPT}", self.values);
        let outcome = self.ssh.script(self.way, &script, input).await.map_err(Failure::failed)?;
        if outcome.code == 0 {
            return Ok(outcome);
        }
        let has = |word: &str| outcome.lines.iter().any(|line| line == word);
        let why = if outcome.is_disk_full() {
            "its disk is full, and nothing was put in force: make room there (df -h), and then the same again"
        } else if has("broken") {
            "what has arrived is not what was sent: try it again"
        } else if has("unusable") {
            "this srsctl cannot be run there, since it needs libraries: install the one of: make release"
        } else {
            "not installed: this was said there"
        };
        let lines: Vec<&str> = outcome.errors.lines().filter(|line| !line.trim().is_empty()).collect();
        let said = lines.iter().skip(lines.len().saturating_sub(LINES));
        let said: String = said.map(|line| format!("\n  | {}", text::fit(line.trim_end(), LINE))).collect();
        Err(Failure::failed(format!("{}: {why}{said}", self.way)))
    }
}

/// The keys as arguments of the setup.
fn keys(args: &Args) -> Result<Vec<String>, Failure> {
    let mut operators = args.operator_key.clone();
    if operators.is_empty() {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        operators
            .extend(OWN_KEYS.map(|name| home.join(".ssh").join(name)).into_iter().find(|path| path.exists()));
    }
    let of = |option: &'static str, path: &PathBuf| {
        let key = read_key(path).map_err(|why| Failure::usage(format!("{}: {why}", path.display())))?;
        Ok([option.to_owned(), key])
    };
    let operators = operators.iter().map(|path| of("--operator-key", path));
    let all = operators.chain(args.viewer_key.iter().map(|path| of("--viewer-key", path)));
    Ok(all.collect::<Result<Vec<_>, Failure>>()?.into_iter().flatten().collect())
}

fn read_key(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    setup::key(text.trim())
}
