//! Every way in which a machine is not reached, with its sentence and what to do.
//!
//! `ssh` has one exit code (255) for all that goes wrong before the command runs there, and says the rest in words. [`TABLE`] knows these
//! words; they are those of OpenSSH, whose messages have stood for decades. What it does not know is shown as it was said.

use std::fmt;
use std::process::ExitStatus;

/// Columns of what was said there that are shown of a line, and lines of it.
const LINE: usize = 200;
/// Lines of what was said that are shown.
const LINES: usize = 6;

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Starting `ssh` here.
    Start,
    /// Connecting and logging in.
    Login,
    /// Waiting for srsctl there to say who it is.
    Greeting,
    /// Asking it something.
    Ask,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "starting ssh",
            Self::Login => "logging in by ssh",
            Self::Greeting => "greeting srsctl there",
            Self::Ask => "asking srsctl there",
        })
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no `ssh` here.
    NoSsh,
    /// The name stands for nothing.
    UnknownName,
    /// Nothing listens there.
    Refused,
    /// Nothing answers.
    Timeout,
    /// There is no way.
    NoRoute,
    /// No key of it is pinned.
    UnknownKey,
    /// It has another key.
    ChangedKey,
    /// It does not let us in.
    NoPermission,
    /// The user there has no shell.
    NoAccount,
    /// There is no srsctl.
    Missing,
    /// srsctl there cannot be run.
    NotExecutable,
    /// Another version, which speaks something else.
    OtherVersion,
    /// sudo there asks for a password.
    Sudo,
    /// Its disk is full.
    DiskFull,
    /// ssh's own config is wrong.
    Config,
    /// The connection broke.
    Broken,
    /// What came is not srsctl.
    Noise,
    /// Nothing came in time.
    Silent,
    /// None of these.
    Other,
}

/// Words by which a kind is known, first match first.
const TABLE: [(&str, Kind); 33] = [
    ("remote host identification has changed", Kind::ChangedKey),
    ("host key is known for", Kind::UnknownKey),
    ("host key verification failed", Kind::UnknownKey),
    ("could not resolve hostname", Kind::UnknownName),
    ("connection refused", Kind::Refused),
    ("connection timed out", Kind::Timeout),
    ("operation timed out", Kind::Timeout),
    ("timed out during banner exchange", Kind::Timeout),
    ("timeout, server", Kind::Timeout),
    ("no route to host", Kind::NoRoute),
    ("network is unreachable", Kind::NoRoute),
    ("host is down", Kind::NoRoute),
    ("too many authentication failures", Kind::NoPermission),
    ("permission denied (", Kind::NoPermission),
    ("this account is currently not available", Kind::NoAccount),
    ("account has expired", Kind::NoAccount),
    ("a terminal is required", Kind::Sudo),
    ("a password is required", Kind::Sudo),
    ("no tty present", Kind::Sudo),
    ("you must have a tty", Kind::Sudo),
    ("no space left on device", Kind::DiskFull),
    ("disk quota exceeded", Kind::DiskFull),
    ("bad configuration option", Kind::Config),
    ("bad owner or permissions on", Kind::Config),
    ("can't open user config file", Kind::Config),
    ("unrecognized subcommand", Kind::OtherVersion),
    ("unexpected argument", Kind::OtherVersion),
    ("command not found", Kind::Missing),
    ("srsctl: not found", Kind::Missing),
    ("srsctl: no such file", Kind::Missing),
    ("connection reset", Kind::Broken),
    ("connection closed", Kind::Broken),
    ("broken pipe", Kind::Broken),
];

impl Kind {
    fn of(status: Option<ExitStatus>, said: &Said) -> Self {
        if let Some(kind) = Self::known(&format!("{}\n{}", said.errors, said.noise)) {
            return kind;
        }
        match status.and_then(|status| status.code()) {
            Some(127) => Self::Missing,
            Some(126) => Self::NotExecutable,
            Some(_) | None if !said.noise.trim().is_empty() => Self::Noise,
            Some(_) | None => Self::Other,
        }
    }

    /// What it is that is said so.
    pub(crate) fn known(words: &str) -> Option<Self> {
        let words = words.to_lowercase();
        TABLE.iter().find(|(known, _)| words.contains(known)).map(|(_, kind)| *kind)
    }

    /// What is wrong, and what to do about it at `place`.
    fn sentence(self, place: &str) -> (&'static str, String) {
        let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
        match self {
            Self::NoSsh => ("there is no ssh on this machine", "install openssh-client".to_owned()),
            Self::UnknownName => (
                "its name stands for no address",
                "correct `host:` or `ssh:` of it in the cluster file, or add it to your ssh config".to_owned(),
            ),
            Self::Refused => (
                "nothing listens for ssh there",
                format!("is that the right port, and does sshd run? see: ssh {place}"),
            ),
            Self::Timeout => (
                "it does not answer",
                "is the machine up, and is ssh let through to it? a change goes on without it by --skip-unreachable".to_owned(),
            ),
            Self::NoRoute => (
                "there is no way to it from here",
                "is this machine in the right network? a change goes on without it by --skip-unreachable".to_owned(),
            ),
            Self::UnknownKey => ("no key of it is pinned for this cluster", format!("srsctl host trust {host}")),
            Self::ChangedKey => (
                "it has another host key than the one that is pinned: it was installed anew, or somebody is in between",
                format!(
                    "compare the fingerprint on its own console, ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub, and then: \
                     srsctl host trust {host} --replace"
                ),
            ),
            Self::NoPermission => (
                "it does not let you in",
                format!("load your key (ssh-add), and put it into authorized_keys there; see: ssh {place}"),
            ),
            Self::NoAccount => (
                "the user there may not log in",
                "give it a shell there (chsh -s /bin/sh USER), or name another one in `ssh: USER@HOST`".to_owned(),
            ),
            Self::Missing => ("srsctl is not installed there", format!("srsctl host install {host}")),
            Self::NotExecutable => {
                ("srsctl there cannot be run by that user", format!("srsctl host install {host}"))
            }
            Self::OtherVersion => (
                "another version of srsctl is there, which this one does not understand",
                format!("install this one: srsctl host install {host}"),
            ),
            Self::Sudo => (
                "sudo there asks for a password, and there is nobody to type it",
                "let the command be run without it there (NOPASSWD in sudoers), or log in as the user that runs srsctl"
                    .to_owned(),
            ),
            Self::DiskFull => ("its disk is full", "make room there: df -h".to_owned()),
            Self::Config => ("ssh does not take its config", "correct ~/.ssh/config; see: ssh -G HOST".to_owned()),
            Self::Broken => ("the connection broke", format!("try again; see: ssh {place}")),
            Self::Noise => (
                "what came is no srsctl, but what a login prints",
                format!("does its shell end, or ask something, when nobody is there? see: ssh {place} true"),
            ),
            Self::Silent => ("nothing came in time", format!("see: ssh {place} srsctl --version")),
            Self::Other => ("ssh ended", format!("see: ssh {place} srsctl --version")),
        }
    }
}

/// What was said while it was tried.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// By ssh, or on stderr there.
    pub(crate) errors: String,
    /// On stdout there, in front of srsctl.
    pub(crate) noise: String,
}

/// Why a machine is not reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    place: String,
    step: Step,
    kind: Kind,
    /// As it was said, for a person.
    said: String,
}

impl Problem {
    pub(crate) fn new(place: &str, step: Step, kind: Kind, said: String) -> Self {
        Self { place: place.to_owned(), step, kind, said }
    }

    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What is wrong, without the next step, on one line.
    #[must_use]
    pub fn cause(&self) -> String {
        let (what, _) = self.kind.sentence(&self.place);
        match (self.kind, self.own_words()) {
            (_, Some(first)) => format!("{what}: {}", text::fit(first.trim(), LINE)),
            (Kind::Silent, None) => format!("{what} while {}", self.step),
            (_, None) => what.to_owned(),
        }
    }

    /// What was said first, where that is the cause.
    fn own_words(&self) -> Option<&str> {
        let tells = matches!(self.kind, Kind::Other | Kind::Broken | Kind::OtherVersion);
        self.said.lines().find(|line| tells && !line.trim().is_empty())
    }

    /// What to do.
    #[must_use]
    pub fn next_step(&self) -> String {
        self.kind.sentence(&self.place).1
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.cause())?;
        let is_told = |line: &&str| line.trim().is_empty() || Some(*line) == self.own_words();
        let lines: Vec<&str> = self.said.lines().filter(|line| !is_told(line)).collect();
        for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
            write!(f, "\n  | {}", text::fit(line.trim_end(), LINE))?;
        }
        write!(f, "\n  = help: {}", self.next_step())
    }
}

impl std::error::Error for Problem {}

/// Why an `ssh` ended before srsctl there said a word.
pub(crate) fn explain(place: &str, status: Option<ExitStatus>, said: &Said) -> Problem {
    let kind = Kind::of(status, said);
    let mut words = format!("{}\n{}", said.noise, said.errors);
    if words.trim().is_empty() {
        words = status.map_or_else(|| "it did not end".to_owned(), |status| status.to_string());
    }
    Problem::new(place, Step::Login, kind, words)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn kind(code: i32, errors: &str, noise: &str) -> Kind {
        let said = Said { errors: errors.into(), noise: noise.into() };
        explain("me@h", Some(ExitStatus::from_raw(code << 8)), &said).kind()
    }

    #[test]
    fn every_way_in_which_ssh_fails_is_known_by_what_it_says() {
        for (code, errors, noise, expected) in [
            (255, "ssh: connect to host 10.0.0.1 port 22: Connection refused\r\n", "", Kind::Refused),
            (255, "ssh: connect to host 10.0.0.1 port 22: Connection timed out", "", Kind::Timeout),
            (255, "Timeout, server 10.0.0.1 not responding.", "", Kind::Timeout),
            (255, "ssh: connect to host h port 22: No route to host", "", Kind::NoRoute),
            (255, "ssh: Could not resolve hostname h: Name or service not known", "", Kind::UnknownName),
            (
                255,
                "No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.",
                "",
                Kind::UnknownKey,
            ),
            (
                255,
                "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
                "",
                Kind::ChangedKey,
            ),
            (255, "me@h: Permission denied (publickey).", "", Kind::NoPermission),
            (1, "", "This account is currently not available.\n", Kind::NoAccount),
            (127, "bash: line 1: srsctl: command not found", "", Kind::Missing),
            (127, "", "", Kind::Missing),
            (126, "sh: srsctl: Permission denied", "", Kind::NotExecutable),
            (2, "error: unrecognized subcommand 'dial-stdio'", "", Kind::OtherVersion),
            (1, "sudo: a terminal is required to read the password", "", Kind::Sudo),
            (1, "sh: write error: No space left on device", "", Kind::DiskFull),
            (255, "/root/.ssh/config: line 3: Bad configuration option: x", "", Kind::Config),
            (255, "kex_exchange_identification: read: Connection reset by peer", "", Kind::Broken),
            (0, "", "Welcome to the menu. 1) mail 2) quit", Kind::Noise),
            (7, "", "", Kind::Other),
        ] {
            assert_eq!(kind(code, errors, noise), expected, "{code} {errors:?} {noise:?}");
        }
    }

    #[test]
    fn a_failure_says_where_why_what_was_said_and_what_to_do() {
        let said = Said { errors: "motd\u{1b}[2J\nssh: Connection refused\n".into(), noise: String::new() };
        let problem = explain("me@h:2222", Some(ExitStatus::from_raw(255 << 8)), &said);
        assert_eq!(
            problem.to_string(),
            "me@h:2222: nothing listens for ssh there\n  | motd\u{fffd}[2J\n  | ssh: Connection refused\n  \
             = help: is that the right port, and does sshd run? see: ssh me@h:2222"
        );
    }
}
