//! How an operator gets to a machine.

use std::fmt;

/// How an operator gets to a machine by ssh: `[user@]host[:port]`, each part fit to be an argument of `ssh`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// Who logs in there; without it ssh decides.
    pub user: Option<String>,
    /// A host name, an address, or a `Host` of the operator's ssh config.
    pub host: String,
    /// Where its sshd listens; without it ssh decides.
    pub port: Option<u16>,
}

/// As it is written in a cluster file.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.port {
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}
